/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * IP in IP, mode dsr (RFC 2003, RFC 2473): the packet as the client sent it, a hop older, behind a
 * header to the backend of whichever family that has. What gets too long for the way there is
 * answered, as by any router; only an IPv4 packet whose client lets it be cut is: the outer packet,
 * by the daemon. No other outer packet may be cut.
 *
 * The outer source is one address of this host, whatever the flow: over IPv4, paths of equal cost
 * on the way see one flow for each backend, unless they look inside. Over IPv6 the flow label
 * tells flows apart (RFC 6438). For clients of IPv6 the way to the backend has to carry the least
 * MTU of IPv6 and the outer header, 1,300 or 1,320 bytes: they send no less.
 */
#ifndef HAFLINGER_ENCAPSULATE_H
#define HAFLINGER_ENCAPSULATE_H

#include "answer.h"
#include "checksum.h"
#include "flow.h"
#include "fragment.h"
#include "packet.h"
#include "way.h"

/* The protocol is the family of what is inside: 4 or 41. */
#define PROTOCOL_IPV4 4
#define PROTOCOL_IPV6 41

/* Bytes that the outer header adds. */
static __always_inline __u32 encapsulation_overhead(const struct address *backend)
{
	return is_mapped(backend) ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
}

/* One hop older (RFC 2003, section 3.1): TTL and protocol are one word of the checksum. */
static __always_inline int one_hop_less(struct xdp_md *context, const struct packet *packet)
{
	struct ipv6hdr *v6;
	struct iphdr *v4;

	if (packet->family == 4) {
		v4 = at(context, packet->network, sizeof(*v4));
		if (!v4)
			return 0;
		v4->ttl -= 1;
		v4->check = checksum_update(v4->check, difference16(bpf_htons(0x0100), 0));
		return 1;
	}
	v6 = at(context, packet->network, sizeof(*v6));
	if (!v6)
		return 0;
	v6->hop_limit -= 1;
	return 1;
}

/* Room for the outer header between the link layer, which stays, and the packet. */
static __always_inline int outer_room(struct xdp_md *context, const struct packet *packet,
				      __u32 overhead)
{
	__be16 type = bpf_htons(overhead == sizeof(struct iphdr) ? ETH_P_IP : ETH_P_IPV6);
	struct link link = {};
	__be16 *last;

	if (!link_load(context, packet->network, &link) ||
	    bpf_xdp_adjust_head(context, -(int)overhead) != 0 ||
	    !link_store(context, packet->network, &link))
		return 0;
	last = at(context, packet->network - sizeof(*last), sizeof(*last));
	if (!last)
		return 0;
	*last = type;
	return 1;
}

/* 20 bits that are the same for all packets of a flow, and seldom for another one. */
static __always_inline __u32 flow_label(const struct flow_key *key)
{
	__u64 mixed = key->source.halves[0] ^ key->source.halves[1];

	mixed ^= ((__u64)key->source_port << 16 | key->destination_port) * 0x9e3779b97f4a7c15ULL;
	return mixed * 0x9e3779b97f4a7c15ULL >> 44;
}

static __always_inline int outer_v4(struct xdp_md *context, const struct packet *packet,
				    const struct address *source, const struct address *backend,
				    int cut)
{
	struct iphdr *ip = at(context, packet->network, sizeof(*ip));

	if (!ip)
		return 0;
	header_v4(ip, source, backend, packet->family == 4 ? PROTOCOL_IPV4 : PROTOCOL_IPV6,
		  packet->length);
	ip->tos = packet->traffic_class;
	if (cut) {
		ip->frag_off = 0;
		ip->id = identification_v4(fragment_identification(4));
	}
	ip->check = 0;
	ip->check = checksum_fold(checksum_add(0, ip, sizeof(*ip)));
	return 1;
}

static __always_inline int outer_v6(struct xdp_md *context, const struct packet *packet,
				    const struct address *source, const struct address *backend)
{
	struct ipv6hdr *ip = at(context, packet->network, sizeof(*ip));
	__u32 first = 6U << 28 | (__u32)packet->traffic_class << 20 | flow_label(&packet->key);

	if (!ip)
		return 0;
	header_v6(ip, source, backend, packet->family == 4 ? PROTOCOL_IPV4 : PROTOCOL_IPV6,
		  packet->length);
	*(__be32 *)ip = bpf_htonl(first);
	return 1;
}

/*
 * Puts the packet behind a header to `backend`, which allows the whole to be cut if `cut`. Then it
 * is a packet of the backend's family whose network layer begins where it did, and `packet` says
 * so. Zero if there is no room for it, or no address to send it from.
 */
static __always_inline int encapsulate(struct xdp_md *context, struct packet *packet,
				       const struct address *backend, int cut)
{
	__u32 only = 0, overhead = encapsulation_overhead(backend);
	const struct settings *all = bpf_map_lookup_elem(&settings, &only);
	const struct address *source;
	int v4 = is_mapped(backend), written;

	if (!all)
		return 0;
	source = v4 ? &all->tunnel_source_v4 : &all->tunnel_source_v6;
	if (!(source->halves[0] | source->halves[1]) || packet->length > DATAGRAM_MAX - overhead)
		return 0;
	if (!one_hop_less(context, packet) || !outer_room(context, packet, overhead))
		return 0;
	written = v4 ? outer_v4(context, packet, source, backend, cut)
		     : outer_v6(context, packet, source, backend);
	packet->family = v4 ? 4 : 6;
	packet->length += overhead;
	packet->transport += overhead;
	packet->stages |= STAGE_ENCAPSULATED;
	return written;
}

/* The way of the outer packet, asked before there is one: an answer would quote the inner. */
static __always_inline enum routing outer_route(struct xdp_md *context, struct packet *packet,
						const struct flow *flow, struct leg *leg)
{
	const struct address *backend = &flow->backend;
	__u32 overhead = encapsulation_overhead(backend);
	struct flow_key outer = {};
	struct question question;
	__u8 family = packet->family;
	enum routing routing;

	outer.destination = *backend;
	outer.protocol = family == 4 ? PROTOCOL_IPV4 : PROTOCOL_IPV6;
	packet->family = is_mapped(backend) ? 4 : 6;
	packet->length += overhead;
	question_of(context, packet, flow, &question);
	routing = recall(&question, packet, leg)
			  ? ROUTED
			  : asked(context, packet, &outer, &question, leg);
	packet->family = family;
	packet->length -= overhead;
	if (routing == TOO_BIG)
		packet->path_mtu = leg->mtu - overhead;
	return routing;
}

/*
 * Sends a packet of the flow in `packet->record` to its backend. UNDECIDED: it is too big for that
 * way, and as it was.
 */
__noinline int forward_encapsulated(struct xdp_md *context, struct packet *packet)
{
	struct leg leg = {};
	struct interface *interface = NULL;
	enum routing routing;
	struct flow *flow;
	int cut;

	if (!packet)
		return XDP_DROP;
	flow = ELEMENT(flows, packet->record);
	if (!flow)
		return decided(packet, REASON_INTERNAL, XDP_DROP);
	packet->stages |= STAGE_FLOW_FOUND;
	packet->service = flow->service;
	packet->backend = flow->backend_id;
	routing = outer_route(context, packet, flow, &leg);
	count_packet(packet, flow);
	if (routing == TOO_BIG)
		return UNDECIDED;
	if (routing == UNROUTED)
		return XDP_DROP;
	if (routing == ROUTED) {
		interface = egress_of(packet);
		if (!interface)
			return decided(packet, REASON_UNTRANSMITTABLE, XDP_DROP);
	}
	/* The kernel answers in place of the length with the MTU. */
	cut = routing == DEFERRED &&
	      leg.mtu < packet->length + encapsulation_overhead(&flow->backend);
	if (packet->fragment == FIRST_FRAGMENT)
		fragment_remember(packet);
	if (!encapsulate(context, packet, &flow->backend, cut))
		return decided(packet, REASON_NO_ROOM, XDP_DROP);
	return interface ? transmit(context, packet, &leg, interface) : defer(context, packet);
}

#endif
