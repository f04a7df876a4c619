/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The maps. The loader sets the sizes that are 1 here from the configuration before it loads.
 * What the daemon writes and the program reads is in memory-mapped arrays, written field by field
 * with single stores; what must be found by key is in hashes that lead to a slot of such an array.
 * An element of a preallocated hash may be given to another key while a reader holds it, so every
 * reader compares the slot's own key with what it looked for.
 */
#ifndef HAFLINGER_MAPS_H
#define HAFLINGER_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "reasons.h"
#include "types.h"

#define MAPPED_ARRAY(name, element)                                                                \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                  \
		__uint(map_flags, BPF_F_MMAPABLE);                                                 \
		__uint(max_entries, 1);                                                            \
		__type(key, __u32);                                                                \
		__type(value, element);                                                            \
	} name SEC(".maps")

#define KEYED(name, kind, from, to, flags)                                                         \
	struct {                                                                                   \
		__uint(type, kind);                                                                \
		__uint(map_flags, flags);                                                          \
		__uint(max_entries, 1);                                                            \
		__type(key, from);                                                                 \
		__type(value, to);                                                                 \
	} name SEC(".maps")

#define PER_CPU(name, element, count)                                                              \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                                           \
		__uint(max_entries, count);                                                        \
		__type(key, __u32);                                                                \
		__type(value, element);                                                            \
	} name SEC(".maps")

/* Flows: an index by the tuple of either direction, and records: `opening_records` of the one
 * region, then `established_records` of the other. The index has room for two keys a record. */
KEYED(flow_index, BPF_MAP_TYPE_HASH, struct flow_key, struct flow_reference, 0);
MAPPED_ARRAY(flows, struct flow);
const volatile __u32 opening_records = 1;
const volatile __u32 established_records = 1;
MAPPED_ARRAY(hints, struct hint);
const volatile __u32 hint_mask = 0;
PER_CPU(hands, struct hands, 1);
PER_CPU(flow_counters, struct flow_counters, 1);
PER_CPU(rate, struct rate, 1);

/* Services and their tables. */
KEYED(service_index, BPF_MAP_TYPE_HASH, struct service_key, __u32, 0);
MAPPED_ARRAY(services, struct service);
MAPPED_ARRAY(service_loads, struct service_load);
MAPPED_ARRAY(buckets, struct bucket);
KEYED(source_ranges, BPF_MAP_TYPE_LPM_TRIE, struct range_key, __u8, BPF_F_NO_PREALLOC);
KEYED(affinities, BPF_MAP_TYPE_LRU_HASH, struct affinity_key, struct affinity, 0);

/* Backends. Slot 0 is never used. */
MAPPED_ARRAY(backends, struct backend);
MAPPED_ARRAY(backend_loads, struct backend_load);
PER_CPU(backend_counters, struct backend_counters, 1);

/* The rest of the world. */
MAPPED_ARRAY(sources, struct source);
MAPPED_ARRAY(interfaces, struct interface);
MAPPED_ARRAY(generation, struct generation);
MAPPED_ARRAY(ways, struct ways); /* of the established region */
MAPPED_ARRAY(clock, __u64);
PER_CPU(routes_asked, __u64, 1);
KEYED(fragments, BPF_MAP_TYPE_LRU_HASH, struct fragment_key, struct fragment, 0);
PER_CPU(answer_rate, struct rate, 1);
MAPPED_ARRAY(settings, struct settings);

/* The next identification of an IPv4 datagram in fragments: of all CPUs, since it must not recur. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} identifications SEC(".maps");

/* What is seen from outside. */
PER_CPU(reasons, struct reason_counters, REASONS);
KEYED(refusals, BPF_MAP_TYPE_LRU_HASH, struct flow_key, struct refusal, 0);
PER_CPU(refusal_budget, struct refusal_budget, 1);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} trace SEC(".maps");
PER_CPU(trace_counters, struct trace_counters, 1);

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} deferrals SEC(".maps");

#endif
