/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Errors from the way between this host and a backend of mode dsr. They come to the address that
 * tunnels begin at, and quote an outer header of ours before the client's packet. That the packet
 * is too big on that way only the client can mend, so it is told, as this host would have told it
 * had it known: from the VIP, quoting its packet, with what the outer header leaves of the MTU
 * (RFC 2003, section 4.1; RFC 2473, section 7.1).
 *
 * All other errors of the tunnel, those that quote too little to find the flow, and those that
 * contradict themselves go to the kernel.
 */
#ifndef HAFLINGER_TUNNEL_H
#define HAFLINGER_TUNNEL_H

#include "answer.h"
#include "encapsulate.h"
#include "flow.h"
#include "icmp.h"

/* The smallest MTU that IPv4 has (RFC 791, section 3.2). */
#define IPV4_MTU_MIN 68

/* What an error of the tunnel's way tells. */
struct tunnel_quote {
	struct address backend;
	__u32 inner; /* offset of the client's packet */
	__u32 mtu;   /* of the way, as the router says */
};

/* Whether an error says that a packet was too big. */
static __always_inline int says_too_big(__u8 family, const struct icmp_error *error)
{
	if (family == 6)
		return error->type == ICMPV6_TOO_BIG;
	return error->type == ICMPV4_UNREACHABLE && error->code == ICMPV4_FRAGMENTATION_NEEDED;
}

/* The outer header of ours that an error quotes: without options, from where tunnels begin. */
static __always_inline int outer_quoted(struct xdp_md *context, __u8 family, __u32 offset,
					struct tunnel_quote *quote)
{
	__u32 zero = 0;
	const struct settings *all = bpf_map_lookup_elem(&settings, &zero);
	const struct ipv6hdr *v6;
	const struct iphdr *v4;

	if (!all)
		return 0;
	if (family == 4) {
		v4 = at(context, offset, sizeof(*v4));
		if (!v4 || v4->version != 4 || v4->ihl != sizeof(*v4) / 4 ||
		    v4->saddr != all->tunnel_source_v4.words[3] ||
		    (v4->protocol != PROTOCOL_IPV4 && v4->protocol != PROTOCOL_IPV6))
			return 0;
		map_address(&quote->backend, v4->daddr);
		quote->inner = offset + sizeof(*v4);
		return 1;
	}
	v6 = at(context, offset, sizeof(*v6));
	if (!v6 || v6->version != 6 ||
	    (v6->nexthdr != PROTOCOL_IPV4 && v6->nexthdr != PROTOCOL_IPV6) ||
	    !same_address((const struct address *)&v6->saddr, &all->tunnel_source_v6))
		return 0;
	__builtin_memcpy(&quote->backend, &v6->daddr, sizeof(quote->backend));
	quote->inner = offset + sizeof(*v6);
	return 1;
}

static __always_inline int tunnel_quoted(struct xdp_md *context, const struct packet *packet,
					 struct tunnel_quote *quote)
{
	const struct icmp_error *error = at(context, packet->transport, sizeof(*error));

	if (!error || !says_too_big(packet->family, error))
		return 0;
	quote->mtu = bpf_ntohl(error->rest) & (packet->family == 4 ? 0xffff : ~0U);
	return outer_quoted(context, packet->family, packet->transport + sizeof(*error), quote);
}

/* The client's packet within, as the client sent it: its key leads to its flow. */
static __always_inline int inner_quoted(struct xdp_md *context, const struct packet *packet,
					__u32 offset, struct packet *inner)
{
	const __u8 *first = at(context, offset, 1);
	struct address vip;
	__be16 port;

	if (!first || (*first >> 4 != 4 && *first >> 4 != 6))
		return 0;
	__builtin_memset(inner, 0, sizeof(*inner));
	inner->family = *first >> 4;
	inner->network = offset;
	if (!quote_flow(context, packet, inner))
		return 0;
	vip = inner->key.source;
	port = inner->key.source_port;
	inner->key.source = inner->key.destination;
	inner->key.source_port = inner->key.destination_port;
	inner->key.destination = vip;
	inner->key.destination_port = port;
	return 1;
}

/* The error's front goes, down to the quoted packet; its own headers come before that. */
static __always_inline int tunnel_turn(struct xdp_md *context, struct error *error, __u32 inner)
{
	__u32 front = inner - error->network - error_headers(error->family);
	__be16 *type;
	struct link link = {};

	if (!link_load(context, error->network, &link) ||
	    !frame_cut(context, inner + error->quote) ||
	    bpf_xdp_adjust_head(context, (int)front) != 0 ||
	    !link_store(context, error->network, &link))
		return 0;
	type = at(context, error->network - sizeof(*type), sizeof(*type));
	if (!type)
		return 0;
	*type = error->family == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	return error_write(context, error);
}

/* From now on it is a packet of ours to the client; but its key is as received. */
static __always_inline void tunnel_answered(struct packet *packet, struct scratch *here)
{
	const struct error *error = &here->error;

	__builtin_memset(&here->after, 0, sizeof(here->after));
	here->after.source = error->source;
	here->after.destination = error->destination;
	here->after.protocol = error->family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6;
	packet->family = error->family;
	packet->transport = error->network + error_headers(error->family) - sizeof(error->header);
	packet->length = error_headers(error->family) + error->quote;
	packet->ttl = ANSWER_TTL;
	packet->unfragmentable = 1;
	packet->record = here->quote.record;
	packet->direction = TO_CLIENT;
	packet->stages |= STAGE_ANSWERED;
}

/*
 * Turns an error from the tunnel's way into one to the client, to be routed (UNDECIDED); what it
 * says nothing of stays as it is.
 */
__noinline int tunnel_error(struct xdp_md *context, struct packet *packet)
{
	struct scratch *here = scratch_here();
	struct tunnel_quote quote = {};
	struct packet *inner;
	const struct flow *flow;
	__u32 overhead, quoted;

	if (!packet || !here)
		return XDP_DROP;
	inner = &here->quote;
	if (!tunnel_quoted(context, packet, &quote) ||
	    !inner_quoted(context, packet, quote.inner, inner))
		return decided(packet, REASON_ICMP_UNKNOWN, XDP_PASS);
	flow = find_flow(inner, &inner->key);
	if (!flow || flow->mode != MODE_DSR || !same_address(&flow->backend, &quote.backend))
		return decided(packet, REASON_ICMP_UNKNOWN, XDP_PASS);
	overhead = encapsulation_overhead(&quote.backend);
	if (quote.mtu < overhead + IPV4_MTU_MIN || inner->length + overhead <= quote.mtu)
		return decided(packet, REASON_ICMP_UNKNOWN, XDP_PASS);
	quoted = packet->network + packet->length - quote.inner;
	error_about(&here->error, packet->network, inner,
		    quoted < inner->length ? quoted : inner->length);
	error_kind(&here->error, ANSWER_TOO_BIG, quote.mtu - overhead);
	if (!tunnel_turn(context, &here->error, quote.inner))
		return decided(packet, REASON_NO_ROOM, XDP_DROP);
	tunnel_answered(packet, here);
	return UNDECIDED;
}

#endif
