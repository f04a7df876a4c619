/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Which way a packet leaves is the kernel's to say, by its routes and neighbours; way.h remembers
 * what it has said until that changes. The question comes before the packet is changed, since the
 * answer may be to send it back. What the kernel can do and a program cannot (resolve a neighbour,
 * cut a packet, follow a tunnel's route, reach this host itself) the daemon does with the rewritten
 * packet; to pass that one to the kernel would not do, since it comes from outside with a source
 * address of this host.
 */
#ifndef HAFLINGER_ROUTE_H
#define HAFLINGER_ROUTE_H

#include "parse.h"

/* Address families of the kernel's socket interface, whose header does not compile for BPF. */
#define AF_INET 2
#define AF_INET6 10

enum routing {
	ROUTED,	   /* to a neighbour, by an interface that transmits */
	DEFERRED,  /* the daemon has to send it */
	TOO_BIG,   /* and it must not be cut */
	UNROUTED,  /* packet->reason says why */
};

static __always_inline void ask(const struct xdp_md *context, const struct packet *packet,
				const struct flow_key *after, struct bpf_fib_lookup *route)
{
	if (packet->family == 4) {
		route->family = AF_INET;
		route->tos = packet->traffic_class;
		route->ipv4_src = after->source.words[3];
		route->ipv4_dst = after->destination.words[3];
	} else {
		route->family = AF_INET6;
		route->flowinfo = packet->flow_information;
		__builtin_memcpy(route->ipv6_src, &after->source, sizeof(struct address));
		__builtin_memcpy(route->ipv6_dst, &after->destination, sizeof(struct address));
	}
	/* With ports the kernel spreads flows over the paths of a route as it does its own. */
	route->l4_protocol = after->protocol;
	route->sport = after->source_port;
	route->dport = after->destination_port;
	route->tot_len = packet->length;
	route->ifindex = context->ingress_ifindex;
}

static __always_inline enum routing unrouted(struct packet *packet, enum reason reason)
{
	packet->reason = reason;
	return UNROUTED;
}

static __always_inline enum routing deferred(struct packet *packet, enum reason reason)
{
	packet->reason = reason;
	return DEFERRED;
}

/* Of a packet that is too big, too, `leg` says the size of the path. */
static __always_inline enum routing find_route(struct xdp_md *context, struct packet *packet,
					       const struct flow_key *after, struct leg *leg)
{
	struct bpf_fib_lookup route = {};
	long answer;

	ask(context, packet, after, &route);
	answer = bpf_fib_lookup(context, &route, sizeof(route), 0);
	leg->mtu = route.mtu_result;
	switch (answer) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		packet->egress = route.ifindex;
		packet->stages |= STAGE_ROUTED;
		leg->egress = route.ifindex <= 0xffff ? route.ifindex : 0;
		__builtin_memcpy(leg->link, route.dmac, ETH_ALEN);
		__builtin_memcpy((__u8 *)leg->link + ETH_ALEN, route.smac, ETH_ALEN);
		return ROUTED;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return deferred(packet, REASON_DEFERRED);
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return packet->unfragmentable ? TOO_BIG : deferred(packet, REASON_DEFERRED);
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return unrouted(packet, REASON_NO_ROUTE);
	default: /* not forwarded, forwarding off, a tunnel's route, or new in a later kernel */
		return deferred(packet, REASON_NOT_ROUTED);
	}
}

/* How frames leave by the route's interface, or NULL. */
static __always_inline struct interface *egress_of(const struct packet *packet)
{
	struct interface *interface = ELEMENT(interfaces, packet->egress);

	return interface && interface->transmits ? interface : NULL;
}

/* Hands the packet as it is now to the daemon. `packet->reason` is kept when that succeeds. */
static __always_inline int defer(struct xdp_md *context, struct packet *packet)
{
	struct deferred header = {
		.length = context->data_end - context->data,
		.protocol = packet->family == 4 ? ETH_P_IP : ETH_P_IPV6,
		.offset = packet->network,
	};
	__u64 flags = BPF_F_CURRENT_CPU | (__u64)header.length << 32;

	if (bpf_perf_event_output(context, &deferrals, flags, &header, sizeof(header)))
		return decided(packet, REASON_DEFER_FAILED, XDP_DROP);
	return XDP_DROP;
}

struct tagged_ethernet {
	struct ethhdr head;
	struct vlan_header tag;
};

/* Puts the link layer of the way out before the network layer at `network`, and sends. */
static __always_inline int transmit(struct xdp_md *context, struct packet *packet,
				    const struct leg *leg, const struct interface *interface)
{
	__u32 head = interface->vlan ? sizeof(struct tagged_ethernet) : sizeof(struct ethhdr);
	struct ethhdr *ethernet;
	__u32 *link;

	if (packet->network != head) {
		if (bpf_xdp_adjust_head(context, (int)packet->network - (int)head))
			return decided(packet, REASON_NO_ROOM, XDP_DROP);
	}
	ethernet = at(context, 0, sizeof(*ethernet));
	if (!ethernet)
		return decided(packet, REASON_INTERNAL, XDP_DROP);
	link = (__u32 *)ethernet;
	link[0] = leg->link[0];
	link[1] = leg->link[1];
	link[2] = leg->link[2];
	ethernet->h_proto = packet->family == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	if (interface->vlan) {
		struct tagged_ethernet *tagged = at(context, 0, sizeof(*tagged));

		if (!tagged)
			return decided(packet, REASON_INTERNAL, XDP_DROP);
		tagged->tag.protocol = tagged->head.h_proto;
		tagged->tag.control = interface->vlan;
		tagged->head.h_proto = interface->vlan_protocol;
	}
	return bpf_redirect(interface->redirect, 0);
}

#endif
