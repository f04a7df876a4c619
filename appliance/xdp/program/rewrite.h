/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What a packet carries when it leaves: addresses, ports, one hop less, and checksums that account
 * for it. Modes nat and routed differ only in what the record names as the source. Of a later
 * fragment only the network layer is there to be rewritten.
 */
#ifndef HAFLINGER_REWRITE_H
#define HAFLINGER_REWRITE_H

#include "checksum.h"
#include "flow.h"

/* The tuple with which a packet of a flow is sent. */
static __always_inline void tuple_after(const struct flow *flow, const struct packet *packet,
					struct flow_key *after)
{
	if (packet->direction == TO_BACKEND) {
		after->source = flow->source;
		after->destination = flow->backend;
		after->source_port = flow->source_port;
		after->destination_port = flow->backend_port;
	} else {
		after->source = flow->client.destination;
		after->destination = flow->client.source;
		after->source_port = flow->client.destination_port;
		after->destination_port = flow->client.source_port;
	}
	after->protocol = packet->key.protocol;
}

static __always_inline __u32 ports_of(const struct flow_key *key)
{
	return key->source_port | (__u32)key->destination_port << 16;
}

/* `difference` is that of the addresses, which the pseudo-header covers. */
static __always_inline int rewrite_transport(struct xdp_md *context, const struct packet *packet,
					     const struct flow_key *after, __u64 difference)
{
	__u32 *ports;

	if (packet->fragment == LATER_FRAGMENT)
		return 1;
	difference += difference32(ports_of(&packet->key), ports_of(after));
	if (packet->key.protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = at(context, packet->transport, sizeof(*tcp));

		if (!tcp)
			return 0;
		tcp->check = checksum_update(tcp->check, difference);
		ports = (__u32 *)tcp;
	} else {
		struct udphdr *udp = at(context, packet->transport, sizeof(*udp));

		if (!udp)
			return 0;
		udp->check = checksum_update_udp(udp->check, difference);
		ports = (__u32 *)udp;
	}
	*ports = ports_of(after);
	return 1;
}

/* The hop count is the first of two bytes of a word, and lower by one. */
static __always_inline int rewrite_ipv4(struct xdp_md *context, const struct packet *packet,
					const struct flow_key *after, __u64 *difference)
{
	struct iphdr *ip = at(context, packet->network, sizeof(*ip));
	__u16 *hops;

	if (!ip)
		return 0;
	hops = (__u16 *)&ip->ttl;
	*difference = difference32(ip->saddr, after->source.words[3]) +
		      difference32(ip->daddr, after->destination.words[3]);
	ip->check = checksum_update(ip->check,
				    *difference + difference16(*hops, *hops - bpf_htons(0x100)));
	ip->saddr = after->source.words[3];
	ip->daddr = after->destination.words[3];
	ip->ttl -= 1;
	return 1;
}

static __always_inline int rewrite_ipv6(struct xdp_md *context, const struct packet *packet,
					const struct flow_key *after, __u64 *difference)
{
	struct ipv6hdr *ip = at(context, packet->network, sizeof(*ip));

	if (!ip)
		return 0;
	*difference = difference_address(&packet->key.source, &after->source) +
		      difference_address(&packet->key.destination, &after->destination);
	__builtin_memcpy(&ip->saddr, &after->source, sizeof(struct address));
	__builtin_memcpy(&ip->daddr, &after->destination, sizeof(struct address));
	ip->hop_limit -= 1;
	return 1;
}

static __always_inline int rewrite(struct xdp_md *context, struct packet *packet,
				   const struct flow_key *after)
{
	__u64 difference;

	if (!(packet->family == 4 ? rewrite_ipv4(context, packet, after, &difference)
				  : rewrite_ipv6(context, packet, after, &difference)))
		return 0;
	packet->stages |= STAGE_REWRITTEN;
	return rewrite_transport(context, packet, after, difference);
}

#endif
