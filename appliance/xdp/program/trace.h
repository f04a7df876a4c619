/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Shows packets to whoever asks: one of so many that match a filter, by the ring buffer. Off (a
 * single comparison at the exit) unless somebody asks. An event for which there is no room is lost
 * and counted; no packet waits.
 */
#ifndef HAFLINGER_TRACE_H
#define HAFLINGER_TRACE_H

#include "packet.h"

static __always_inline int matches_address(const struct address *filter,
					   const struct address *address)
{
	return (!(filter->halves[0] | filter->halves[1])) || same_address(filter, address);
}

static __always_inline int matches_port(__be16 filter, __be16 port)
{
	return !filter || filter == port;
}

/* Zeros of the filter match anything, and so does its other direction. */
static __always_inline int trace_matches(const struct flow_key *filter, const struct flow_key *key)
{
	if (filter->protocol && filter->protocol != key->protocol)
		return 0;
	return (matches_address(&filter->source, &key->source) &&
		matches_address(&filter->destination, &key->destination) &&
		matches_port(filter->source_port, key->source_port) &&
		matches_port(filter->destination_port, key->destination_port)) ||
	       (matches_address(&filter->source, &key->destination) &&
		matches_address(&filter->destination, &key->source) &&
		matches_port(filter->source_port, key->destination_port) &&
		matches_port(filter->destination_port, key->source_port));
}

/* By its own addresses, or by those between client and VIP of the flow that it belongs to. */
static __always_inline int trace_selects(const struct flow_key *filter, const struct packet *packet)
{
	__u32 record = packet->record;
	const struct flow *flow;

	if (trace_matches(filter, &packet->key))
		return 1;
	if (!(packet->stages & (STAGE_FLOW_FOUND | STAGE_FLOW_CREATED)))
		return 0;
	flow = bpf_map_lookup_elem(&flows, &record);
	return flow && trace_matches(filter, &flow->client);
}

/* At the exit, with tracing on. */
__noinline int trace_packet(struct xdp_md *context, struct packet *packet, __u32 verdict)
{
	__u32 zero = 0;
	const struct settings *all = bpf_map_lookup_elem(&settings, &zero);
	struct trace_counters *counters = bpf_map_lookup_elem(&trace_counters, &zero);
	struct trace_event *event;
	__u32 one_in;

	if (!packet || !all || !counters || !trace_selects(&all->trace, packet))
		return 0;
	one_in = all->trace_one_in;
	if (!one_in || counters->matched++ % one_in != 0)
		return 0;
	event = bpf_ringbuf_reserve(&trace, sizeof(*event), 0);
	if (!event) {
		counters->lost += 1;
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->nanoseconds = bpf_ktime_get_ns();
	event->packet = packet->key;
	event->stages = packet->stages;
	event->reason = packet->reason;
	event->verdict = verdict;
	event->service = packet->service;
	event->backend = packet->backend;
	event->record = packet->record;
	event->ingress = context->ingress_ifindex;
	event->egress = packet->egress;
	event->length = packet->length;
	event->tcp_flags = packet->tcp_flags;
	bpf_ringbuf_submit(event, 0);
	return 1;
}

#endif
