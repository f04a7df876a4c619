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

/* The element of an array, by a copy of its index: before kernel 6.2 the key of a lookup may not lie
 * in what a function got as an argument, as the packet does in most of them. */
#define ELEMENT(array, index)                                                                      \
	({                                                                                         \
		__u32 position = (index);                                                          \
		bpf_map_lookup_elem(&(array), &position);                                          \
	})

/* Whole seconds of the coarse clock. That goes on with each tick of the kernel's, which is a load
 * away; so one packet of each tick asks for the time and divides it, and leaves the rest the result:
 * tick and seconds, 32 bits each, in one word. */
static __always_inline __u32 seconds_now(void)
{
	__u32 only = 0, tick = bpf_jiffies64(), seconds;
	__u64 *known = bpf_map_lookup_elem(&clock, &only), word;

	if (!known)
		return 0;
	word = *(volatile __u64 *)known;
	if (word >> 32 == tick)
		return word;
	seconds = bpf_ktime_get_coarse_ns() / SECOND_NS;
	*(volatile __u64 *)known = (__u64)tick << 32 | seconds;
	return seconds;
}

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
