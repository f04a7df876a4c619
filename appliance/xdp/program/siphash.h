/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The flow hash: SipHash-1-3 of the same 37 bytes as in haflinger-core, so that daemon and program
 * agree on every flow's bucket.
 *
 *	| client address 16 | VIP 16 | client port 2 | VIP port 2 | protocol 1 |
 */
#ifndef HAFLINGER_SIPHASH_H
#define HAFLINGER_SIPHASH_H

#include "packet.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are read as they lie in memory");

#define FLOW_HASH_INPUT 37

struct sip {
	__u64 v0, v1, v2, v3;
};

static __always_inline __u64 rotated(__u64 word, int bits)
{
	return word << bits | word >> (64 - bits);
}

static __always_inline void sip_round(struct sip *state)
{
	state->v0 += state->v1;
	state->v1 = rotated(state->v1, 13) ^ state->v0;
	state->v0 = rotated(state->v0, 32);
	state->v2 += state->v3;
	state->v3 = rotated(state->v3, 16) ^ state->v2;
	state->v0 += state->v3;
	state->v3 = rotated(state->v3, 21) ^ state->v0;
	state->v2 += state->v1;
	state->v1 = rotated(state->v1, 17) ^ state->v2;
	state->v2 = rotated(state->v2, 32);
}

static __always_inline void sip_word(struct sip *state, __u64 word)
{
	state->v3 ^= word;
	sip_round(state);
	state->v0 ^= word;
}

/* Of a client's packet. Without the client's port every flow of a client falls into one bucket. */
static __always_inline __u64 flow_hash(const struct flow_key *key, int without_port)
{
	const struct settings *all;
	__u32 zero = 0;
	struct sip state;
	__u64 k0, k1, ports;

	all = bpf_map_lookup_elem(&settings, &zero);
	if (!all)
		return 0;
	k0 = ((const __u64 *)all->hash_key)[0];
	k1 = ((const __u64 *)all->hash_key)[1];
	state.v0 = k0 ^ 0x736f6d6570736575;
	state.v1 = k1 ^ 0x646f72616e646f6d;
	state.v2 = k0 ^ 0x6c7967656e657261;
	state.v3 = k1 ^ 0x7465646279746573;
	sip_word(&state, key->source.halves[0]);
	sip_word(&state, key->source.halves[1]);
	sip_word(&state, key->destination.halves[0]);
	sip_word(&state, key->destination.halves[1]);
	ports = without_port ? 0 : key->source_port;
	sip_word(&state, ports | (__u64)key->destination_port << 16 | (__u64)key->protocol << 32 |
				 (__u64)FLOW_HASH_INPUT << 56);
	state.v2 ^= 0xff;
	sip_round(&state);
	sip_round(&state);
	sip_round(&state);
	return state.v0 ^ state.v1 ^ state.v2 ^ state.v3;
}

#endif
