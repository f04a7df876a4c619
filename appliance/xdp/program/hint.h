/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Guesses at flows: which record a tuple was found in last. The kernel's hash knows for certain, but
 * hashes forty bytes for it, by a call, and reads three cold lines where this reads one. A guess is
 * only ever a guess: the record itself says whose it is, and a wrong one costs a look at it.
 *
 * Tuples that fall upon each other push each other out, and are then found as ever.
 */
#ifndef HAFLINGER_HINT_H
#define HAFLINGER_HINT_H

#include "flow.h"

/* Odd numbers without a pattern, one for each word of a tuple: digits of the golden ratio. */
#define MIX_0 0x9e3779b97f4a7c15ULL
#define MIX_1 0xf39cc0605cedc835ULL
#define MIX_2 0x1082276bf3a27251ULL
#define MIX_3 0xf86c6a11d0c18e95ULL
#define MIX_4 0x2767f0b153d27b7fULL

/* Its upper half says where a guess is kept, its lower half checks it. No secret is in it: who
 * finds tuples that fall upon each other makes them as slow as the kernel's hash. */
static __always_inline __u64 tuple_hash(const struct flow_key *key)
{
	const __u64 *words = (const __u64 *)key;
	__u64 hash = words[0] * MIX_0 + words[1] * MIX_1 + words[2] * MIX_2 + words[3] * MIX_3 +
		     words[4] * MIX_4;

	hash ^= hash >> 32;
	return hash * MIX_0;
}

static __always_inline struct flow *guess_flow(struct packet *packet, __u64 hash)
{
	const struct hint *hint = ELEMENT(hints, (hash >> 32) & hint_mask);
	union {
		struct hint hint;
		__u64 word;
	} known;
	struct flow *flow;

	if (!hint)
		return NULL;
	known.word = *(const volatile __u64 *)hint;
	if ((known.hint.check ^ (__u32)hash) & ~1U)
		return NULL;
	packet->record = known.hint.record;
	packet->direction = known.hint.check & 1;
	flow = held_by(packet);
	if (!flow)
		packet->direction = TO_BACKEND;
	return flow;
}

static __always_inline void note_flow(const struct packet *packet, __u64 hash)
{
	struct hint *hint = ELEMENT(hints, (hash >> 32) & hint_mask);
	union {
		struct hint hint;
		__u64 word;
	} known;

	known.hint.record = packet->record;
	known.hint.check = ((__u32)hash & ~1U) | (packet->direction & 1);
	if (hint)
		*(volatile __u64 *)hint = known.word;
}

/* The flow of a packet, guessed or looked up. A SYN seldom has one: to guess would only cost. */
static __always_inline struct flow *flow_of(struct packet *packet)
{
	struct flow *flow;
	__u64 hash;

	if ((packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return find_flow(packet, &packet->key);
	hash = tuple_hash(&packet->key);
	flow = guess_flow(packet, hash);
	if (flow)
		return flow;
	flow = find_flow(packet, &packet->key);
	if (flow)
		note_flow(packet, hash);
	return flow;
}

#endif
