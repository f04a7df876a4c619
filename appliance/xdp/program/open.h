/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Packets of no flow: for no service of ours, or opening a flow, or lost.
 *
 * In mode nat the insertion of the reverse key is what allocates a source address and port: the
 * index admits no second flow with the same tuple, so no two flows ever share one. It comes before
 * the client's key, so whoever finds a flow finds it whole.
 */
#ifndef HAFLINGER_OPEN_H
#define HAFLINGER_OPEN_H

#include "answer.h"
#include "choose.h"

/* Ports that are tried for a new flow. With nine tenths in use, one flow in five fails and is
 * opened by its client's next attempt. */
#define SOURCES_MAX 16

/* Errors of bpf_map_update_elem, whose header does not compile for BPF. */
#define E2BIG 7
#define ENOMEM 12
#define EEXIST 17

/* Takes a token of this CPU's rate of new flows. */
static __always_inline int within_rate(const struct settings *all)
{
	__u32 only = 0;
	struct rate *bucket = bpf_map_lookup_elem(&rate, &only);
	__u64 now = bpf_ktime_get_coarse_ns();
	__u64 interval, earned;

	if (!bucket || !all->new_flows_rate)
		return 1;
	interval = SECOND_NS / all->new_flows_rate;
	earned = now > bucket->refilled ? (now - bucket->refilled) / (interval ? interval : 1) : 0;
	if (bucket->tokens + earned >= all->new_flows_rate) {
		bucket->tokens = all->new_flows_rate;
		bucket->refilled = now;
	} else {
		bucket->tokens += earned;
		bucket->refilled += earned * interval;
	}
	if (!bucket->tokens)
		return 0;
	bucket->tokens -= 1;
	return 1;
}

/* TCP is told, UDP is not. */
static __always_inline int refuse(struct xdp_md *context, struct packet *packet,
				  enum reason reset, enum reason drop)
{
	if (packet->key.protocol == IPPROTO_TCP)
		return answer_reset(context, packet, reset);
	return decided(packet, drop, XDP_DROP);
}

static __always_inline int refuse_for(struct xdp_md *context, struct packet *packet,
				      enum reason reason)
{
	if (reason == REASON_NO_BACKEND)
		return refuse(context, packet, REASON_NO_BACKEND_RESET, reason);
	return refuse(context, packet, REASON_LIMIT_RESET, reason);
}

/* The next address and port to try, drawn at random so that CPUs do not meet. */
static __always_inline int draw_source(struct flow *flow, const struct backend *backend)
{
	__u32 random = bpf_get_prandom_u32();
	__u32 slot = backend->sources_first + (random >> 16) % backend->sources_count;
	const struct source *source = bpf_map_lookup_elem(&sources, &slot);
	__u32 ports;

	if (!source)
		return 0;
	ports = source->port_max - source->port_min + 1;
	flow->source = source->address;
	flow->source_port = bpf_htons(source->port_min + bpf_get_prandom_u32() % ports);
	return 1;
}

static __always_inline int insert(const struct flow_key *key, __u32 record, __u32 direction)
{
	struct flow_reference reference = {.record = record, .direction = direction};

	return bpf_map_update_elem(&flow_index, key, &reference, BPF_NOEXIST);
}

static __always_inline enum reason cannot_insert(int error)
{
	return error == -E2BIG || error == -ENOMEM ? REASON_FLOWS_FULL : REASON_SOURCES_EXHAUSTED;
}

/* Inserts the key of the answers, and with it settles the source. REASON_FORWARDED_NEW: done. */
static __always_inline enum reason insert_reverse(struct flow *flow, __u32 record,
						  const struct backend *backend)
{
	struct flow_key key;
	int i, error = 0;

	if (flow->mode == MODE_DSR)
		return REASON_FORWARDED_NEW;
	if (flow->mode == MODE_ROUTED) {
		reverse_key(flow, &key);
		error = insert(&key, record, TO_CLIENT);
		return error ? cannot_insert(error) : REASON_FORWARDED_NEW;
	}
	if (!backend->sources_count)
		return REASON_SOURCES_EXHAUSTED;
	for (i = 0; i < SOURCES_MAX; i++) {
		if (!draw_source(flow, backend))
			return REASON_SOURCES_EXHAUSTED;
		reverse_key(flow, &key);
		error = insert(&key, record, TO_CLIENT);
		if (!error)
			return REASON_FORWARDED_NEW;
	}
	return cannot_insert(error);
}

static __always_inline void fill(struct flow *flow, const struct packet *packet,
				 const struct service *service, const struct backend *backend)
{
	flow->client = packet->key;
	flow->touched = packet->now;
	flow->phase = PHASE_OPENING;
	flow->mode = service->mode;
	flow->finished = 0;
	flow->zero = 0;
	flow->backend_port = backend->port;
	flow->source_port = packet->key.source_port;
	flow->service = packet->service;
	flow->backend_id = packet->backend;
	flow->backend = backend->address;
	flow->source = packet->key.source;
	flow->bytes[0] = flow->bytes[1] = 0;
	flow->packets[0] = flow->packets[1] = 0;
	flow->created = packet->now;
	flow->mark = 0;
}

/* Gives back a record whose flow did not come about. */
static __always_inline void withdraw(struct flow *flow)
{
	struct flow_key key;

	if (__sync_val_compare_and_swap(&flow->state, RECORD_LIVE, RECORD_CLAIMED) != RECORD_LIVE)
		return; /* evicted in this moment */
	if (flow->mode != MODE_DSR) {
		reverse_key(flow, &key);
		bpf_map_delete_elem(&flow_index, &key);
	}
	count_connection(flow->service, flow->backend_id, -1);
	__sync_lock_test_and_set(&flow->state, RECORD_FREE);
}

static __always_inline void count_opened(__u32 backend)
{
	struct backend_counters *counters = bpf_map_lookup_elem(&backend_counters, &backend);

	COUNT_FLOW(opened);
	if (counters)
		counters->flows += 1;
}

/*
 * The client's key comes last. When it is there already, another CPU has opened the flow in this
 * moment, and that flow is taken; if its record knows nothing of it, it is a leftover.
 */
static __always_inline int insert_client(struct packet *packet, struct flow *flow, __u32 record)
{
	struct flow_key key = packet->key;
	int error = insert(&key, record, TO_BACKEND);

	if (error == -EEXIST) {
		if (find_flow(packet, &key)) {
			withdraw(flow);
			return UNDECIDED;
		}
		bpf_map_delete_elem(&flow_index, &key);
		error = insert(&key, record, TO_BACKEND);
	}
	if (error) {
		withdraw(flow);
		return decided(packet, REASON_FLOWS_FULL, XDP_DROP);
	}
	packet->record = record;
	packet->direction = TO_BACKEND;
	packet->stages |= STAGE_FLOW_CREATED;
	count_opened(packet->backend);
	return UNDECIDED;
}

/* Makes a flow to `packet->backend`. UNDECIDED: `packet->record` is its record. */
__noinline int create(struct packet *packet)
{
	const struct service *service;
	const struct backend *backend;
	struct flow *flow;
	enum reason result;
	int record;

	if (!packet)
		return XDP_DROP;
	service = ELEMENT(services, packet->service);
	backend = ELEMENT(backends, packet->backend);
	record = claim(REGION_OPENING, packet->now);
	flow = bpf_map_lookup_elem(&flows, &record);
	if (!service || !backend || record < 0 || !flow)
		return decided(packet, REASON_FLOWS_FULL, XDP_DROP);
	fill(flow, packet, service, backend);
	result = insert_reverse(flow, record, backend);
	if (result != REASON_FORWARDED_NEW) {
		__sync_lock_test_and_set(&flow->state, RECORD_FREE);
		return decided(packet, result, XDP_DROP);
	}
	count_connection(flow->service, flow->backend_id, 1);
	__sync_lock_test_and_set(&flow->state, RECORD_LIVE);
	return insert_client(packet, flow, record);
}

/* Whether a flow may be created now, at all and for this service. */
static __always_inline int admit(struct xdp_md *context, struct packet *packet,
				 const struct service *service)
{
	__u32 only = 0;
	const struct settings *all = bpf_map_lookup_elem(&settings, &only);
	const struct service_load *load = ELEMENT(service_loads, packet->service);

	if (!all || !load)
		return decided(packet, REASON_INTERNAL, XDP_DROP);
	if (!within_rate(all))
		return decided(packet, REASON_FLOW_RATE, XDP_DROP);
	if (service->connections_max && load->connections >= service->connections_max)
		return refuse_for(context, packet, REASON_SERVICE_LIMIT);
	return UNDECIDED;
}

static __always_inline int open_new(struct xdp_md *context, struct packet *packet,
				    const struct service *service)
{
	int verdict = admit(context, packet, service);

	if (verdict != UNDECIDED)
		return verdict;
	packet->backend = choose(packet);
	if (packet->backend == NO_BACKEND)
		return refuse_for(context, packet, packet->reason);
	packet->reason = REASON_FORWARDED_NEW;
	return create(packet);
}

/* Whether a connected socket of this host holds the connection: the relay's, while the service
 * moves from it to here. */
static __always_inline int held_by_socket(struct xdp_md *context, const struct packet *packet)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;
	__u32 size, state;

	if (packet->family == 4) {
		tuple.ipv4.saddr = packet->key.source.words[3];
		tuple.ipv4.daddr = packet->key.destination.words[3];
		tuple.ipv4.sport = packet->key.source_port;
		tuple.ipv4.dport = packet->key.destination_port;
		size = sizeof(tuple.ipv4);
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, &packet->key.source, sizeof(struct address));
		__builtin_memcpy(tuple.ipv6.daddr, &packet->key.destination,
				 sizeof(struct address));
		tuple.ipv6.sport = packet->key.source_port;
		tuple.ipv6.dport = packet->key.destination_port;
		size = sizeof(tuple.ipv6);
	}
	socket = bpf_sk_lookup_tcp(context, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return 0;
	state = socket->state;
	bpf_sk_release(socket);
	return state != BPF_TCP_LISTEN;
}

/*
 * TCP of no flow that does not open one. In mode nat the backend's end of the connection went with
 * the flow, so the client is told that it is over. In the others the backend knows the client's own
 * tuple, so the connection survives the loss of the flow, as long as the table still says where it
 * went. The flow made for it counts as opening until the backend answers: the packet may be forged.
 */
static __always_inline int astray(struct xdp_md *context, struct packet *packet,
				  const struct service *service)
{
	int verdict;

	if (held_by_socket(context, packet))
		return decided(packet, REASON_LOCAL_SOCKET, XDP_PASS);
	if (service->mode == MODE_NAT || packet->tcp_flags & TCP_RST)
		return answer_reset(context, packet, REASON_RESET);
	packet->backend = choose_astray(packet);
	if (packet->backend == NO_BACKEND)
		return answer_reset(context, packet, REASON_NO_BACKEND_RESET);
	verdict = admit(context, packet, service);
	if (verdict != UNDECIDED)
		return verdict;
	packet->reason = REASON_FORWARDED_ASTRAY;
	return create(packet);
}

/* Finds the service of a packet that has no flow, and opens one. */
static __always_inline int open_flow(struct xdp_md *context, struct packet *packet)
{
	const struct service *service;
	struct flow_key key = packet->key;

	if (packet->stale && find_flow(packet, &key))
		return UNDECIDED;
	if (packet->fragment == LATER_FRAGMENT)
		return decided(packet, REASON_FRAGMENT_UNKNOWN, XDP_PASS);
	service = find_service(packet);
	if (!service)
		return decided(packet, REASON_NOT_OURS, XDP_PASS);
	if (packet->ttl <= 1)
		return answer_error(context, packet, ANSWER_TIME_EXCEEDED, 0, 0);
	if (!within_ranges(packet, service))
		return decided(packet, REASON_SOURCE_RANGE, XDP_DROP);
	if (packet->key.protocol == IPPROTO_TCP &&
	    (packet->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) != TCP_SYN)
		return astray(context, packet, service);
	return open_new(context, packet, service);
}

/*
 * What is to be done about a packet before it can be forwarded: its flow, if it has one, goes on or
 * ends, or there is one to be opened. UNDECIDED: it has a flow, in `packet->record`.
 */
__noinline int settle(struct xdp_md *context, struct packet *packet, __u32 mode)
{
	if (!packet)
		return XDP_DROP;
	if (mode != NO_FLOW) {
		if (packet->ttl <= 1)
			return answer_error(context, packet, ANSWER_TIME_EXCEEDED, 0,
					    is_transit(packet, mode));
		if (follow(context, packet))
			return UNDECIDED;
	}
	return open_flow(context, packet);
}

#endif
