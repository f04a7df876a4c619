/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Counts changes of neighbours, for way.h: called by the kernel itself where it changes one, so that
 * the number has grown when the change is made. Attached to the kernel's tracepoints by links that
 * outlive the daemon, as the data path does.
 *
 * A program that interrupts itself on a CPU is left out by the kernel. So a change in the few
 * nanoseconds in which another has been counted and the program has not ended is seen with the next
 * second, as what nobody counts.
 *
 * A neighbour is confirmed and doubted all the time. Only another address of the link layer counts,
 * and whether it may be used at all: what is remembered of each says whether that has changed.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "types.h"

/* The daemon puts the data path's own in its place. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct generation);
} generation SEC(".maps");

/* Neighbours that are remembered, by their place in memory: sixteen times what the kernel keeps of
 * each family unless it is told to (gc_thresh3, 1024). One that is not remembered counts. */
#define NEIGHBOURS_MAX 32768

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, NEIGHBOURS_MAX);
	__type(key, __u64);
	__type(value, __u64);
} neighbours SEC(".maps");

/* NUD_VALID of net/neighbour.h: states in which the kernel sends to the address that it knows. */
#define STATES_VALID 0xde

/* Beside the 48 bits of an address: it may be used, or not. A word of zeros is no neighbour's. */
#define USABLE (1ULL << 48)
#define UNUSABLE (1ULL << 49)

/* As much of the kernel's type as is read. */
struct neighbour {
	__u8 nud_state;
	__u8 dead;
	unsigned char ha[ETH_ALEN];
} __attribute__((preserve_access_index));

static __always_inline __u64 word_of(const struct neighbour *neighbour)
{
	__u64 word = 0;
	int i;

	if (neighbour->dead || !(neighbour->nud_state & STATES_VALID))
		return UNUSABLE;
#pragma unroll
	for (i = 0; i < ETH_ALEN; i++)
		word = word << 8 | *(const volatile unsigned char *)&neighbour->ha[i];
	return word | USABLE;
}

static __always_inline int advance(void)
{
	__u32 only = 0;
	struct generation *changes = bpf_map_lookup_elem(&generation, &only);

	if (changes)
		__sync_fetch_and_add(&changes->number, 1);
	return 0;
}

/* Compares a neighbour with what is remembered of it, and remembers it. */
static __always_inline int compare(const struct neighbour *neighbour)
{
	__u64 place = (__u64)neighbour, word = word_of(neighbour), unknown = 0;
	__u64 *known = bpf_map_lookup_elem(&neighbours, &place);

	if (!known) {
		bpf_map_update_elem(&neighbours, &place, &unknown, BPF_NOEXIST);
		return advance();
	}
	if (__sync_lock_test_and_set(known, word) == word)
		return 0;
	/* Another CPU may have changed it meanwhile and have remembered that before. */
	if (word_of(neighbour) != word)
		__sync_lock_test_and_set(known, 0);
	return advance();
}

SEC("tp_btf/neigh_update_done")
int BPF_PROG(neighbour_updated, const struct neighbour *neighbour)
{
	(void)ctx;
	return compare(neighbour);
}

SEC("tp_btf/neigh_timer_handler")
int BPF_PROG(neighbour_timed, const struct neighbour *neighbour)
{
	(void)ctx;
	return compare(neighbour);
}

/* Its place in memory may be another's next. */
SEC("tp_btf/neigh_cleanup_and_release")
int BPF_PROG(neighbour_released, const struct neighbour *neighbour)
{
	__u64 place = (__u64)neighbour;

	(void)ctx;
	compare(neighbour);
	bpf_map_delete_elem(&neighbours, &place);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
