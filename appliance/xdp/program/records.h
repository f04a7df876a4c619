/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Records of flows: who gets one, and who has to give one up. Each CPU goes through each region like
 * the hand of a clock, and takes the record there if it is free or expired. When it is not, the hand
 * has run into records that another CPU has filled, or the region is full: it jumps to others at
 * random, a bounded number of them. If all of those are in use, the one nearest its timeout among
 * those that may be evicted makes room. So the cost of a flood is bounded, and a flood of opening
 * flows only ever evicts opening flows.
 *
 * A record leaves LIVE by one compare-and-exchange, so two CPUs never release the same flow, and
 * its keys leave the index before it is FREE.
 */
#ifndef HAFLINGER_RECORDS_H
#define HAFLINGER_RECORDS_H

#include "packet.h"

/* Records that one claim looks at: a microsecond when all are cold. Of a region that is filled to
 * nine tenths it finds a free one in four claims of five, to one half in all but one of 60,000. */
#define CANDIDATES_MAX 16

/* A flow that was touched within so many seconds is not evicted once it has been established. */
#define SAFE_SECONDS 60

/* For flows whose service is gone: its slot says nothing. RFC 5382 and RFC 4787 ask for more from
 * those who serve strangers; here the ends are known to be told nothing any more. */
#define OPENING_SECONDS 30
#define ESTABLISHED_SECONDS 7200
#define CLOSING_SECONDS 120
#define CLOSED_SECONDS 10
#define DATAGRAMS_SECONDS 120

#define COUNT_FLOW(field)                                                                          \
	do {                                                                                       \
		__u32 only = 0;                                                                    \
		struct flow_counters *counters = bpf_map_lookup_elem(&flow_counters, &only);       \
		if (counters)                                                                      \
			counters->field += 1;                                                      \
	} while (0)

static __always_inline __u32 idle_seconds(const struct flow *flow, __u32 now)
{
	/* Another CPU may have touched it in a second that has not begun here. */
	__s32 idle = now - flow->touched;

	return idle < 0 ? 0 : idle;
}

static __always_inline __u32 either(__u32 seconds, __u32 otherwise)
{
	return seconds ? seconds : otherwise;
}

/* In the order of `struct timeouts`, which is that of the phases; the two in which a flow is opening
 * share one. */
static const __u32 usual_timeouts[] = {
	OPENING_SECONDS, ESTABLISHED_SECONDS, CLOSING_SECONDS, CLOSED_SECONDS, DATAGRAMS_SECONDS,
};

_Static_assert(sizeof(usual_timeouts) == sizeof(struct timeouts), "a number for each timeout");
_Static_assert(PHASE_DATAGRAMS - PHASE_ANSWERED == sizeof(usual_timeouts) / sizeof(__u32) - 1,
	       "a timeout for each phase from ANSWERED on");

static __always_inline __u32 timeout_of(const struct flow *flow)
{
	__u32 id = flow->service, phase = flow->phase;
	const struct service *service = bpf_map_lookup_elem(&services, &id);
	__u32 index = phase > PHASE_ANSWERED ? phase - PHASE_ANSWERED : 0;

	if (!service || index >= sizeof(usual_timeouts) / sizeof(*usual_timeouts))
		return 0;
	return either(((const __u32 *)&service->timeouts)[index], usual_timeouts[index]);
}

static __always_inline __s32 remaining_of(const struct flow *flow, __u32 now)
{
	return (__s32)timeout_of(flow) - (__s32)idle_seconds(flow, now);
}

/* Seconds that a flow has left; negative when it is expired. */
__noinline int remaining_seconds(__u32 record, __u32 now)
{
	const struct flow *flow = bpf_map_lookup_elem(&flows, &record);

	return flow ? remaining_of(flow, now) : 0;
}

/* What answers to the client's tuple look like when they come from the backend. */
static __always_inline void reverse_key(const struct flow *flow, struct flow_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = flow->backend;
	key->destination = flow->source;
	key->source_port = flow->backend_port;
	key->destination_port = flow->source_port;
	key->protocol = flow->client.protocol;
}

/* Deleted, or not there: what else can happen is that the bucket is busy (a program interrupted
 * another on this CPU). */
static __always_inline int absent(long deleted)
{
	return deleted == 0 || deleted == -2 /* ENOENT */;
}

/* The key of the answers last: while the flow may be found again, nobody else is given its source. */
static __always_inline int unlink_keys(const struct flow *flow)
{
	struct flow_key key = flow->client;

	if (!absent(bpf_map_delete_elem(&flow_index, &key)))
		return 0;
	if (flow->mode == MODE_DSR)
		return 1;
	reverse_key(flow, &key);
	return absent(bpf_map_delete_elem(&flow_index, &key));
}

static __always_inline void count_connection(__u32 service, __u32 backend, __u32 change)
{
	struct service_load *service_load = bpf_map_lookup_elem(&service_loads, &service);
	struct backend_load *backend_load = bpf_map_lookup_elem(&backend_loads, &backend);

	if (service_load)
		__sync_fetch_and_add(&service_load->connections, change);
	if (backend_load)
		__sync_fetch_and_add(&backend_load->connections, change);
}

/* Forgets a flow. 0 when somebody else has it in hand, or its keys could not be deleted. */
__noinline int release(__u32 record)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &record);

	if (!flow || __sync_val_compare_and_swap(&flow->state, RECORD_LIVE, RECORD_CLAIMED) !=
			     RECORD_LIVE)
		return 0;
	if (!unlink_keys(flow)) {
		flow->state = RECORD_LIVE;
		return 0;
	}
	count_connection(flow->service, flow->backend_id, -1);
	__sync_lock_test_and_set(&flow->state, RECORD_FREE);
	return 1;
}

static __always_inline int take(struct flow *flow)
{
	return __sync_val_compare_and_swap(&flow->state, RECORD_FREE, RECORD_CLAIMED) ==
	       RECORD_FREE;
}

/* Opening flows stand back for new ones; others only when they are over or have long been idle. */
static __always_inline int may_be_evicted(const struct flow *flow, __u32 now)
{
	switch (flow->phase) {
	case PHASE_OPENING:
	case PHASE_ANSWERED:
	case PHASE_CLOSED:
		return 1;
	default:
		return idle_seconds(flow, now) >= SAFE_SECONDS;
	}
}

static __always_inline int evict(__u32 record, __u32 region)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &record);

	if (!flow || !release(record) || !take(flow))
		return 0;
	COUNT_FLOW(evicted[region & 1]);
	return 1;
}

/* Takes a record that is free or expired. */
static __always_inline int take_over(__u32 record, struct flow *flow, __s32 remaining)
{
	if (flow->state == RECORD_FREE)
		return take(flow);
	if (flow->state != RECORD_LIVE || remaining >= 0 || !release(record) || !take(flow))
		return 0;
	COUNT_FLOW(expired);
	return 1;
}

/* A CLAIMED record of a region, or -1. */
__noinline int claim(__u32 region, __u32 now)
{
	__u32 first = region == REGION_OPENING ? 0 : opening_records;
	__u32 count = region == REGION_OPENING ? opening_records : established_records;
	__u32 only = 0;
	struct hands *hand = bpf_map_lookup_elem(&hands, &only);
	__s32 remaining, least = 0x7fffffff;
	int victim = -1;
	__u32 i, random = 0;

	if (!hand || region >= REGIONS || !count)
		return -1;
	for (i = 0; i < CANDIDATES_MAX; i++) {
		__u32 next = i ? ((__u64)random * count) >> 32 : hand->next[region];
		__u32 record = first + (next < count ? next : 0);
		struct flow *flow = bpf_map_lookup_elem(&flows, &record);

		if (!flow)
			return -1;
		remaining = remaining_seconds(record, now);
		if (take_over(record, flow, remaining)) {
			hand->next[region] = record - first + 1;
			return record;
		}
		if (flow->state == RECORD_LIVE && remaining < least && may_be_evicted(flow, now)) {
			victim = record;
			least = remaining;
		}
		/* One random number, then a sequence: records that are asked for one after another
		 * without a call in between come from memory at the same time. */
		random = i ? random * 1664525 + 1013904223 : bpf_get_prandom_u32();
	}
	return victim >= 0 && evict(victim, region) ? victim : -1;
}

/* Releases a flow whose time is over. Run by the daemon over all records, piece by piece. */
__noinline int expire(__u32 record, __u32 now)
{
	const struct flow *flow = bpf_map_lookup_elem(&flows, &record);

	if (!flow || flow->state != RECORD_LIVE || remaining_seconds(record, now) >= 0 ||
	    !release(record))
		return 0;
	COUNT_FLOW(expired);
	return 1;
}

#endif
