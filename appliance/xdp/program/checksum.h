/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The internet checksum, whole and changed by what changed (RFC 1624, equation 3: ~(~HC + ~m +
 * m')). One's complement sums do not depend on the byte order nor on the width of the words, so
 * words are summed as they lie in memory, in 64 bits that hold the carries.
 */
#ifndef HAFLINGER_CHECKSUM_H
#define HAFLINGER_CHECKSUM_H

#include "types.h"

/* `size` is even and known to the compiler. */
static __always_inline __u64 checksum_add(__u64 sum, const void *data, __u32 size)
{
	const __u16 *half = data;
	__u32 i;

#pragma unroll
	for (i = 0; i < size / 2; i++)
		sum += half[i];
	return sum;
}

static __always_inline __u16 checksum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* ~m + m' of a word: differences are added up before they change a checksum. */
static __always_inline __u64 difference16(__u16 old, __u16 new)
{
	return (__u64)(__u16)~old + new;
}

static __always_inline __u64 difference32(__u32 old, __u32 new)
{
	return (__u64)(__u32)~old + new;
}

static __always_inline __u64 difference_address(const struct address *old,
						const struct address *new)
{
	return difference32(old->words[0], new->words[0]) +
	       difference32(old->words[1], new->words[1]) +
	       difference32(old->words[2], new->words[2]) +
	       difference32(old->words[3], new->words[3]);
}

static __always_inline __u16 checksum_update(__u16 check, __u64 difference)
{
	return checksum_fold((__u16)~check + difference);
}

/* UDP says "no checksum" with zero, and a sum that comes out as zero with all ones (RFC 768). */
static __always_inline __u16 checksum_update_udp(__u16 check, __u64 difference)
{
	if (!check)
		return 0;
	check = checksum_update(check, difference);
	return check ? check : 0xffff;
}

#endif
