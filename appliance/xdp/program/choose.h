/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The backend of a new flow. Every algorithm names a bucket of the service's table, in which each
 * backend has as many as its weight asks for; the table moves as few as it can when backends
 * change. A hop that takes no new flow, or has as many as it may, is passed over: for the bucket's
 * second hop, then for a few other buckets.
 */
#ifndef HAFLINGER_CHOOSE_H
#define HAFLINGER_CHOOSE_H

#include "service.h"
#include "siphash.h"

#define TABLE_BITS_MAX 20
/* Buckets that are tried after the one that the algorithm names. With a tenth of the backends
 * unusable and the table not yet rebuilt, one flow in a million finds none. */
#define OTHER_BUCKETS 4
/* "The power of two choices" gains most at two; buckets of one backend count once. */
#define LEAST_CANDIDATES 4
/* Odd, so that its multiples visit every bucket of a table, and near 2^32 over the golden ratio, so
 * that they spread. */
#define GOLDEN 0x9e3779b1

/* Reads both words of a table at once. */
static __always_inline struct table table_of(const struct service *service)
{
	union {
		struct table table;
		__u64 word;
	} both;

	both.word = *(const volatile __u64 *)&service->table;
	return both.table;
}

static __always_inline struct bucket bucket_at(const struct table *table, __u32 index)
{
	union {
		struct bucket bucket;
		__u64 word;
	} both = {};
	__u32 position = table->first + index;
	const struct bucket *bucket = bpf_map_lookup_elem(&buckets, &position);

	if (bucket)
		both.word = *(const volatile __u64 *)bucket;
	return both.bucket;
}

static __always_inline __u32 connections_of(__u32 id)
{
	const struct backend_load *load = bpf_map_lookup_elem(&backend_loads, &id);

	return load ? load->connections : 0;
}

/* Whether a backend takes a new flow. A full one leaves its reason for when there is no other. */
static __always_inline int takes(struct packet *packet, const struct service *service, __u32 id)
{
	if (!serves(id, packet->service, 1))
		return 0;
	if (service->backend_connections_max &&
	    connections_of(id) >= service->backend_connections_max) {
		packet->reason = REASON_BACKEND_LIMIT;
		return 0;
	}
	return 1;
}

/* The first backend that takes a flow, from the bucket at `index` on. */
static __always_inline __u32 choose_from(struct packet *packet, const struct service *service,
					 const struct table *table, __u32 index)
{
	__u32 mask = (1U << table->bits) - 1;
	struct bucket bucket = bucket_at(table, index);
	int i;

	if (takes(packet, service, bucket.first))
		return bucket.first;
	if (takes(packet, service, bucket.second))
		return bucket.second;
	for (i = 0; i < OTHER_BUCKETS; i++) {
		index = (index + GOLDEN) & mask;
		bucket = bucket_at(table, index);
		if (takes(packet, service, bucket.first))
			return bucket.first;
	}
	return NO_BACKEND;
}

/* Fewer flows for its weight: a/x < b/y as a*y < b*x. The one to come is counted, or else an idle
 * backend of any weight would equal every other. */
static __always_inline int less_loaded(__u32 id, __u32 other)
{
	const struct backend *one = bpf_map_lookup_elem(&backends, &id);
	const struct backend *two = bpf_map_lookup_elem(&backends, &other);

	if (!one || !two)
		return 0;
	return (connections_of(id) + 1ULL) * two->weight <
	       (connections_of(other) + 1ULL) * one->weight;
}

/* The least loaded of a few backends, drawn by independent parts of the hash. */
static __always_inline __u32 choose_least(struct packet *packet, const struct service *service,
					  const struct table *table, __u64 hash)
{
	__u32 best = NO_BACKEND;
	int i;

	for (i = 0; i < LEAST_CANDIDATES; i++) {
		__u32 id = bucket_at(table, hash >> (64 - table->bits)).first;

		hash = hash << 16 | hash >> 48;
		if (takes(packet, service, id) && (!best || less_loaded(id, best)))
			best = id;
	}
	return best;
}

static __always_inline __u32 next_turn(const struct packet *packet)
{
	struct service_load *load = ELEMENT(service_loads, packet->service);

	return load ? __sync_fetch_and_add(&load->turn, 1) : 0;
}

/* The backend that served this client last, while it remembers. */
static __always_inline __u32 choose_known(struct packet *packet, const struct service *service)
{
	struct affinity_key key = {};
	const struct affinity *known;

	if (service->algorithm != ALGORITHM_SOURCE || !service->affinity)
		return NO_BACKEND;
	key.service = packet->service;
	key.client = packet->key.source;
	known = bpf_map_lookup_elem(&affinities, &key);
	if (!known || packet->now - known->touched >= service->affinity ||
	    !takes(packet, service, known->backend))
		return NO_BACKEND;
	return known->backend;
}

static __always_inline void remember_client(const struct packet *packet,
					    const struct service *service, __u32 backend)
{
	struct affinity_key key = {};
	struct affinity value = {.backend = backend, .touched = packet->now};

	if (service->algorithm != ALGORITHM_SOURCE || !service->affinity)
		return;
	key.service = packet->service;
	key.client = packet->key.source;
	bpf_map_update_elem(&affinities, &key, &value, BPF_ANY);
}

static __always_inline __u32 choose_by(struct packet *packet, const struct service *service,
				       const struct table *table)
{
	__u64 hash = flow_hash(&packet->key, service->algorithm == ALGORITHM_SOURCE);
	__u32 index = hash >> (64 - table->bits);
	__u32 best;

	if (service->algorithm == ALGORITHM_ROUND_ROBIN)
		index = (next_turn(packet) * GOLDEN) & ((1U << table->bits) - 1);
	if (service->algorithm == ALGORITHM_LEAST_CONNECTIONS) {
		best = choose_least(packet, service, table, hash);
		if (best != NO_BACKEND)
			return best;
	}
	return choose_from(packet, service, table, index);
}

/* The backend of a new flow, or NO_BACKEND and the reason. */
__noinline int choose(struct packet *packet)
{
	const struct service *service;
	struct table table;
	__u32 backend;

	if (!packet)
		return NO_BACKEND;
	packet->reason = REASON_NO_BACKEND;
	service = ELEMENT(services, packet->service);
	if (!service)
		return NO_BACKEND;
	table = table_of(service);
	if (!table.bits || table.bits > TABLE_BITS_MAX)
		return NO_BACKEND;
	backend = choose_known(packet, service);
	if (backend == NO_BACKEND)
		backend = choose_by(packet, service, &table);
	if (backend != NO_BACKEND)
		remember_client(packet, service, backend);
	return backend;
}

/* Where a connection of which no flow is known may live: where its bucket led before its last move,
 * otherwise where it leads now. */
__noinline int choose_astray(struct packet *packet)
{
	const struct service *service;
	struct bucket bucket;
	struct table table;

	if (!packet)
		return NO_BACKEND;
	service = ELEMENT(services, packet->service);
	if (!service)
		return NO_BACKEND;
	table = table_of(service);
	if (!table.bits || table.bits > TABLE_BITS_MAX)
		return NO_BACKEND;
	bucket = bucket_at(&table, flow_hash(&packet->key, service->algorithm == ALGORITHM_SOURCE) >>
					   (64 - table.bits));
	if (serves(bucket.second, packet->service, 0))
		return bucket.second;
	return serves(bucket.first, packet->service, 0) ? bucket.first : NO_BACKEND;
}

#endif
