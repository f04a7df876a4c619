/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Live flows: found by either tuple, followed through their phases, moved to the established region
 * once both ends have been heard. The kernel's conntrack checks every sequence number; here only
 * the end of the handshake is checked, since that alone decides what a flood can cost: a SYN with a
 * forged source gets no further than the opening region.
 */
#ifndef HAFLINGER_FLOW_H
#define HAFLINGER_FLOW_H

#include "parse.h"
#include "records.h"

/* Data that may come with a SYN-ACK (RFC 7413), which the client then acknowledges too. */
#define EARLY_DATA_MAX 65535

/* In place of a mode. */
#define NO_FLOW 0xff

/* Whether a packet of a flow is addressed to the client itself, not to an address of ours. */
static __always_inline int is_transit(const struct packet *packet, __u32 mode)
{
	return mode == MODE_ROUTED && packet->direction == TO_CLIENT;
}

/* A reference may be stale: the record decides. */
static __always_inline int belongs(const struct packet *packet, const struct flow *flow)
{
	const struct flow_key *key = &packet->key;

	if (packet->direction == TO_BACKEND)
		return same_address(&key->source, &flow->client.source) &&
		       same_address(&key->destination, &flow->client.destination) &&
		       key->source_port == flow->client.source_port &&
		       key->destination_port == flow->client.destination_port &&
		       key->protocol == flow->client.protocol;
	return same_address(&key->source, &flow->backend) &&
	       same_address(&key->destination, &flow->source) &&
	       key->source_port == flow->backend_port &&
	       key->destination_port == flow->source_port &&
	       key->protocol == flow->client.protocol;
}

/* The flow of `packet->record`, if the packet is one of its in `packet->direction`. */
static __always_inline struct flow *held_by(const struct packet *packet)
{
	struct flow *flow = ELEMENT(flows, packet->record);
	__u32 state;

	if (!flow)
		return NULL;
	state = *(volatile __u32 *)&flow->state;
	if ((state == RECORD_LIVE || state == RECORD_MOVING) && belongs(packet, flow))
		return flow;
	return NULL;
}

/* The flow of a packet; `packet->record` and `packet->direction` say where it stands. `key` is its
 * key, where a lookup may read it: not in what a function got as an argument. */
static __always_inline struct flow *find_flow(struct packet *packet, const struct flow_key *key)
{
	const struct flow_reference *reference = bpf_map_lookup_elem(&flow_index, key);
	struct flow *flow;

	if (!reference)
		return NULL;
	packet->record = *(volatile __u32 *)&reference->record;
	packet->direction = reference->direction;
	flow = held_by(packet);
	if (!flow)
		packet->stale = 1;
	return flow;
}

static __always_inline void count_packet(const struct packet *packet, struct flow *flow)
{
	__u32 backend = flow->backend_id;
	struct backend_counters *counters = bpf_map_lookup_elem(&backend_counters, &backend);
	__u32 direction = packet->direction & 1;

	flow->bytes[direction] += packet->length;
	flow->packets[direction] += 1;
	if (flow->touched != packet->now)
		flow->touched = packet->now;
	if (counters) {
		counters->bytes[direction] += packet->length;
		counters->packets[direction] += 1;
	}
}

static __always_inline void redirect_key(const struct flow_key *key, __u32 from, __u32 to)
{
	struct flow_reference *reference = bpf_map_lookup_elem(&flow_index, key);

	if (reference && reference->record == from)
		*(volatile __u32 *)&reference->record = to;
}

/* Moves a flow to the established region. Both records say the same until both keys lead to the new
 * one. When there is no room the flow stays where it is; the next second tries again. */
__noinline int promote(struct packet *packet)
{
	struct flow *old, *new;
	struct flow_key key;
	int record;

	if (!packet || packet->record >= opening_records)
		return 0;
	old = ELEMENT(flows, packet->record);
	if (!old || __sync_val_compare_and_swap(&old->state, RECORD_LIVE, RECORD_MOVING) !=
			    RECORD_LIVE)
		return 0;
	record = claim(REGION_ESTABLISHED, packet->now);
	new = bpf_map_lookup_elem(&flows, &record);
	if (record < 0 || !new) {
		old->state = RECORD_LIVE;
		COUNT_FLOW(stayed);
		return 0;
	}
	*new = *old;
	new->mark = 0;
	key = old->client;
	redirect_key(&key, packet->record, record);
	if (old->mode != MODE_DSR) {
		reverse_key(old, &key);
		redirect_key(&key, packet->record, record);
	}
	__sync_lock_test_and_set(&new->state, RECORD_LIVE);
	/* Last: whoever reads it has seen the whole record of this flow, and none of another's. */
	new->mark = bpf_get_prandom_u32();
	__sync_lock_test_and_set(&old->state, RECORD_FREE);
	packet->record = record;
	COUNT_FLOW(promoted);
	return 1;
}

static __always_inline __u8 bit_of(__u8 direction, int reset)
{
	return (reset ? 4 : 1) << (direction & 1);
}

/* How a flow opens. In mode dsr its answers are not seen: the client's acknowledgement has to do. */
static __always_inline void follow_opening(const struct packet *packet, const struct tcphdr *tcp,
					   struct flow *flow)
{
	__u8 flags = packet->tcp_flags & (TCP_SYN | TCP_ACK);

	if (packet->direction == TO_CLIENT) {
		if (flags == (TCP_SYN | TCP_ACK)) {
			flow->mark = bpf_htonl(bpf_ntohl(tcp->seq) + 1);
			flow->phase = PHASE_ANSWERED;
		} else if (flags == TCP_ACK && flow->phase == PHASE_OPENING) {
			/* The backend knew the connection before we did. */
			flow->phase = PHASE_ESTABLISHED;
		}
		return;
	}
	if (flags != TCP_ACK)
		return;
	if (flow->phase == PHASE_ANSWERED
		    ? bpf_ntohl(tcp->ack_seq) - bpf_ntohl(flow->mark) <= EARLY_DATA_MAX
		    : flow->mode == MODE_DSR)
		flow->phase = PHASE_ESTABLISHED;
}

/*
 * A reset closes the flow, though a forged one may not have closed the connection: what follows
 * from the same end without the flag, not in the same second, shows that it goes on.
 */
static __always_inline void follow_closing(const struct packet *packet, struct flow *flow)
{
	__u8 reset = bit_of(packet->direction, 1);

	if (packet->tcp_flags & TCP_RST) {
		flow->finished |= reset;
		flow->phase = PHASE_CLOSED;
		return;
	}
	if (flow->finished & reset && flow->touched != packet->now) {
		flow->finished &= 3;
		flow->phase = flow->finished ? PHASE_CLOSING : PHASE_ESTABLISHED;
	}
	if (packet->tcp_flags & TCP_FIN && flow->phase >= PHASE_ESTABLISHED) {
		flow->finished |= bit_of(packet->direction, 0);
		if (flow->phase != PHASE_CLOSED)
			flow->phase = (flow->finished & 3) == 3 ? PHASE_CLOSED : PHASE_CLOSING;
	}
}

static __always_inline int follow_tcp(struct xdp_md *context, const struct packet *packet,
				      struct flow *flow)
{
	const struct tcphdr *tcp = at(context, packet->transport, sizeof(*tcp));

	if (!tcp)
		return 0;
	if (flow->phase == PHASE_OPENING || flow->phase == PHASE_ANSWERED)
		follow_opening(packet, tcp, flow);
	follow_closing(packet, flow);
	return 1;
}

/* An answer makes it two-way. In mode dsr a datagram in another second has to do. */
static __always_inline void follow_udp(const struct packet *packet, struct flow *flow)
{
	if (flow->phase == PHASE_OPENING &&
	    (packet->direction == TO_CLIENT ||
	     (flow->mode == MODE_DSR && packet->now != flow->created)))
		flow->phase = PHASE_DATAGRAMS;
}

/* Whether a backend is still the service's, and takes new flows or at least keeps its old ones. */
static __always_inline int serves(__u32 id, __u32 service, int new_flows)
{
	const struct backend *backend = bpf_map_lookup_elem(&backends, &id);

	if (id == NO_BACKEND || !backend || backend->service != service)
		return 0;
	return backend->state == BACKEND_ACTIVE ||
	       (!new_flows && backend->state == BACKEND_DRAINING);
}

/* A SYN after the end opens a new connection, and so does one that nobody has answered when its
 * backend takes no more. On any other flow it goes where the flow goes: that end knows better. */
static __always_inline int reopens(const struct packet *packet, const struct flow *flow)
{
	if ((packet->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN ||
	    packet->direction != TO_BACKEND || packet->key.protocol != IPPROTO_TCP)
		return 0;
	return flow->phase == PHASE_CLOSED ||
	       (flow->phase == PHASE_OPENING && !serves(flow->backend_id, flow->service, 1));
}

/*
 * The part of a packet's effect on its flow that is not usual. 0: the flow is no more, and the
 * packet opens another. `packet->record` may change.
 */
__noinline int follow(struct xdp_md *context, struct packet *packet)
{
	struct flow *flow;

	if (!packet)
		return 0;
	flow = ELEMENT(flows, packet->record);
	if (!flow)
		return 0;
	if (reopens(packet, flow)) {
		if (release(packet->record))
			COUNT_FLOW(reopened);
		return 0;
	}
	if (packet->key.protocol == IPPROTO_UDP && packet->direction == TO_BACKEND &&
	    !serves(flow->backend_id, flow->service, 0)) {
		if (release(packet->record))
			COUNT_FLOW(forgotten);
		return 0;
	}
	if (packet->key.protocol == IPPROTO_UDP)
		follow_udp(packet, flow);
	else if (packet->fragment != LATER_FRAGMENT && !follow_tcp(context, packet, flow))
		return 0;
	if (flow->phase >= PHASE_ESTABLISHED && flow->phase != PHASE_CLOSED)
		promote(packet);
	return 1;
}

/* Whether a packet of a flow has more to it than to be forwarded. */
static __always_inline int unusual(const struct packet *packet, const struct flow *flow)
{
	if (packet->ttl <= 1)
		return 1;
	if (packet->record < opening_records && flow->touched != packet->now)
		return 1; /* another try to leave the opening region */
	if (packet->key.protocol == IPPROTO_UDP)
		return flow->phase != PHASE_DATAGRAMS ||
		       (packet->direction == TO_BACKEND &&
			!serves(flow->backend_id, flow->service, 0));
	return flow->phase != PHASE_ESTABLISHED ||
	       packet->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST);
}

#endif
