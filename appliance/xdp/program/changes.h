/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Whether the kernel's routes are as they were: the numbers by which the kernel itself invalidates
 * the routes that its sockets remember, and a count of changed neighbours (watch.bpf.c). Each of
 * them only grows, after what it tells of has changed, so their sum is the same only if none has:
 *
 *	IPv4	rt_genid	routes, rules, addresses, links, forwarding
 *	IPv6	fib6_sernum	routes that come and change, rules
 *		fib_discarded_routes	routes that go
 *	both	nexthop.seq	next hops that are objects of their own
 *
 * To read them takes a typed pointer to the packet's context, kernel 6.2.
 */
#ifndef HAFLINGER_CHANGES_H
#define HAFLINGER_CHANGES_H

#include "packet.h"

/* As much of the kernel's types as is read here; where it stands in them is found out when the
 * program is loaded. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;

struct netns_ipv4 {
	atomic_t rt_genid;
};

struct rt6_statistics {
	__u32 fib_discarded_routes;
};

struct netns_ipv6 {
	struct rt6_statistics *rt6_stats;
	atomic_t fib6_sernum;
};

struct netns_nexthop {
	unsigned int seq;
};

struct net {
	struct netns_nexthop nexthop;
	struct netns_ipv4 ipv4;
	struct netns_ipv6 ipv6;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	possible_net_t nd_net;
};

struct xdp_rxq_info {
	struct net_device *dev;
};

struct xdp_buff {
	struct xdp_rxq_info *rxq;
};

#pragma clang attribute pop

extern void *bpf_cast_to_kern_ctx(void *context) __ksym __weak;

/* A word that stays the same while nothing changes and the second lasts; 0 when it cannot be told. */
static __always_inline __u64 changes_until(struct xdp_md *context, const struct packet *packet)
{
	__u32 only = 0;
	const struct generation *neighbours = bpf_map_lookup_elem(&generation, &only);
	const struct xdp_buff *buffer;
	const struct net *net;
	__u32 number;

	if (!bpf_cast_to_kern_ctx || !neighbours)
		return 0;
	number = *(const volatile __u32 *)&neighbours->number;
	if (!number)
		return 0;
	buffer = bpf_cast_to_kern_ctx(context);
	net = buffer->rxq->dev->nd_net.net;
	number += net->nexthop.seq;
	if (packet->family == 4)
		number += net->ipv4.rt_genid.counter;
	else
		number += net->ipv6.fib6_sernum.counter + net->ipv6.rt6_stats->fib_discarded_routes;
	return (__u64)number << 32 | packet->now;
}

#endif
