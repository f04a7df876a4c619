/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The maximum segment size that either end of a TCP connection states (RFC 9293, section 3.7.1) is
 * lowered to what both sides of this host carry, so that the ends need not find out by errors
 * that somebody may drop. Never raised, never added. In mode dsr the answer that would tell the
 * client does not come this way: there backends have to state what the tunnel leaves.
 */
#ifndef HAFLINGER_MSS_H
#define HAFLINGER_MSS_H

#include "checksum.h"
#include "packet.h"
#include "parse.h"
#include "route.h"

/* Every stack that we know puts it first; behind so many options (and each byte of padding is one)
 * it is not looked for. */
#define MSS_OPTIONS_MAX 12

#define OPTION_END 0
#define OPTION_NONE 1
#define OPTION_MSS 2
#define OPTION_MSS_LENGTH 4

/* The offset of the option in a SYN whose options end at `end`, or 0. */
static __always_inline __u32 mss_option(struct xdp_md *context, __u32 offset, __u32 end)
{
	const __u8 *option;
	int i;

#pragma clang loop unroll(disable)
	for (i = 0; i < MSS_OPTIONS_MAX; i++) {
		option = at(context, offset, 2);
		if (!option || offset + 2 > end || option[0] == OPTION_END)
			return 0;
		if (option[0] == OPTION_MSS)
			return option[1] == OPTION_MSS_LENGTH && offset + 4 <= end ? offset : 0;
		if (option[0] != OPTION_NONE && option[1] < 2)
			return 0;
		offset += option[0] == OPTION_NONE ? 1 : option[1];
	}
	return 0;
}

/* What the way back to the sender carries: asked of the routes, which may know a smaller path. */
static __always_inline __u32 mtu_back(struct xdp_md *context, const struct packet *packet)
{
	struct bpf_fib_lookup route = {};
	struct flow_key back = {
		.source = packet->key.destination,
		.destination = packet->key.source,
		.source_port = packet->key.destination_port,
		.destination_port = packet->key.source_port,
		.protocol = packet->key.protocol,
	};
	__u32 ingress = context->ingress_ifindex;
	const struct interface *interface;

	ask(context, packet, &back, &route);
	if (bpf_fib_lookup(context, &route, sizeof(route), 0) == BPF_FIB_LKUP_RET_SUCCESS)
		return route.mtu_result;
	interface = bpf_map_lookup_elem(&interfaces, &ingress);
	return interface && interface->mtu ? interface->mtu : ~0U;
}

/* Lowers the option of a SYN or SYN-ACK to what the way on (`mtu`) and the way back carry. */
__noinline int mss_clamp(struct xdp_md *context, struct packet *packet, __u32 mtu)
{
	__u32 headers, offset, most, back;
	__u16 old, new;
	struct tcphdr *tcp;
	__u8 *option;

	if (!packet)
		return 0;
	back = mtu_back(context, packet);
	if (back < mtu)
		mtu = back;
	headers = sizeof(*tcp) +
		  (packet->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	tcp = at(context, packet->transport, sizeof(*tcp));
	if (!tcp || mtu <= headers)
		return 0;
	most = mtu - headers;
	offset = mss_option(context, packet->transport + sizeof(*tcp),
			    packet->transport + tcp->doff * 4);
	option = at(context, offset, OPTION_MSS_LENGTH);
	if (!offset || !option || (__u32)(option[2] << 8 | option[3]) <= most)
		return 0;
	/* As the checksum sees it: in words from the start of the header. */
	old = option[2] << 8 | option[3];
	new = most;
	option[2] = new >> 8;
	option[3] = new;
	if ((offset - packet->transport) & 1) {
		old = __builtin_bswap16(old);
		new = __builtin_bswap16(new);
	}
	tcp = at(context, packet->transport, sizeof(*tcp));
	if (tcp)
		tcp->check = checksum_update(tcp->check,
					     difference16(bpf_htons(old), bpf_htons(new)));
	return 1;
}

#endif
