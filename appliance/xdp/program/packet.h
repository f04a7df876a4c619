/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What is known of the packet in hand. Offsets, not pointers: a pointer into the packet does not
 * outlive a call that may move it. Whoever uses an offset bounds it again (`at`).
 */
#ifndef HAFLINGER_PACKET_H
#define HAFLINGER_PACKET_H

#include <bpf/bpf_endian.h>

#include "maps.h"

/* No offset that the parser finds is larger: link layer, two tags, the longest IPv6 chain. */
#define OFFSET_MAX 255

#define SECOND_NS 1000000000ULL

/* Seconds of 2^30 nanoseconds in one of 10^9, times 2^30. */
#define LONG_SECONDS (0x1000000000000000ULL / SECOND_NS)

/* A stage that leaves the verdict to the next. */
#define UNDECIDED -1

/* In IPv6: each of them once, but for destination options, which may come twice (RFC 8200, section
 * 4.1). ESP and AH are not for us. */
#define EXTENSIONS_MAX 6

/* RFC 8200, section 4.5. */
struct fragment_header {
	__u8 next;
	__u8 reserved;
	__be16 offset; /* in bytes; its last bits: two reserved, more */
	__be32 identification;
};

enum fragment_kind {
	WHOLE,
	FIRST_FRAGMENT, /* has the ports */
	LATER_FRAGMENT, /* has none */
};

struct packet {
	struct flow_key key;   /* as received; ports 0 in a later fragment */
	__u16 network;	       /* offset of the IP header */
	__u16 transport;       /* offset of what follows it and its extension headers */
	__u16 length;	       /* of the network layer in bytes, as its header says */
	__u8 family;	       /* 4 or 6 */
	__u8 ttl;
	__u8 traffic_class;
	__u8 tcp_flags;
	__u8 fragment;	       /* enum fragment_kind */
	__u8 unfragmentable;   /* IPv6, or IPv4 with DF */
	__be32 identification; /* of the datagram that it is a fragment of; IPv4 at the front */
	__be32 flow_information; /* IPv6: traffic class and flow label */
	__u32 now;		 /* seconds */
	__u16 fragment_header;	 /* offset of IPv6's, or 0 */
	__u8 direction;		 /* enum direction of the flow it belongs to */
	__u8 stale;		 /* the index led to another flow's record: look again */
	/* What happened to it: for counters and traces. */
	__u32 stages;
	__u32 reason;
	__u32 service;
	__u32 backend;
	__u32 record;
	__u32 egress;
	__u32 path_mtu; /* of the way that it is too big for */
};

/* `size` bytes at `offset`, or NULL when the frame ends before. The mask changes nothing: it bounds
 * the very register that is added, where the compiler compares another copy of the offset and
 * kernels before 6.3 do not know that they are equal. */
static __always_inline void *at(struct xdp_md *context, __u64 offset, __u32 size)
{
	void *data = (void *)(long)context->data;
	void *end = (void *)(long)context->data_end;

	if (offset > OFFSET_MAX)
		return NULL;
	asm volatile("%0 &= %1" : "+r"(offset) : "i"(OFFSET_MAX));
	data += offset;
	return data + size > end ? NULL : data;
}

/* Whole seconds of nanoseconds. A processor takes as long for a 64-bit division as for all the rest
 * of parsing a packet; a product is short by two at most in the first thirty years. */
static __always_inline __u32 seconds_of(__u64 nanoseconds)
{
	__u64 seconds = ((nanoseconds >> 30) * LONG_SECONDS) >> 30;
	__u64 rest = nanoseconds - seconds * SECOND_NS;

	if (rest >= SECOND_NS) {
		seconds += 1;
		if (rest >= 2 * SECOND_NS)
			seconds += 1;
	}
	return seconds;
}

/* The element of an array, by a copy of its index: before kernel 6.2 the key of a lookup may not lie
 * in what a function got as an argument, as the packet does in most of them. */
#define ELEMENT(array, index)                                                                      \
	({                                                                                         \
		__u32 position = (index);                                                          \
		bpf_map_lookup_elem(&(array), &position);                                          \
	})

static __always_inline int same_address(const struct address *one, const struct address *other)
{
	return one->halves[0] == other->halves[0] && one->halves[1] == other->halves[1];
}

/* Whether it stands for an IPv4 address. */
static __always_inline int is_mapped(const struct address *address)
{
	return !address->halves[0] && address->words[2] == bpf_htonl(0xffff);
}

/* Every stage ends with a verdict and its reason. */
static __always_inline int decided(struct packet *packet, enum reason reason, int verdict)
{
	packet->reason = reason;
	return verdict;
}

#endif
