/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Answers to the sender of a packet, built in its own frame and sent back by the way it came: TCP
 * resets and ICMP errors. The link layer stays, tags included, with its addresses swapped. To be
 * called before anything of the packet is rewritten, since an error quotes what was received.
 *
 * A stranger can cause every one of them, so each CPU sends a bounded number a second, and none is
 * larger than the minimum that RFC 1812 (576 bytes) and RFC 4443 (1280 bytes) let every path
 * carry. Never answers an ICMP error, a reset, a later fragment, or what has no single sender.
 */
#ifndef HAFLINGER_ANSWER_H
#define HAFLINGER_ANSWER_H

#include "checksum.h"
#include "packet.h"
#include "parse.h"

/* Of one CPU. A core sends that many in well under a hundredth of its time; a client whose reset is
 * dropped sends again. */
#define ANSWERS_A_SECOND 10000
#define ANSWERS_AT_ONCE 1000
#define ANSWER_NANOSECONDS (1000000000ULL / ANSWERS_A_SECOND)

#define ANSWER_TTL 64

/* RFC 1812, section 4.3.2.3; RFC 4443, section 2.4 (c). */
#define QUOTE_V4_MAX (576 - 20 - 8)
#define QUOTE_V6_MAX (1280 - 40 - 8)

#define ICMPV4_UNREACHABLE 3
#define ICMPV4_FRAGMENTATION_NEEDED 4
#define ICMPV4_TIME_EXCEEDED 11
#define ICMPV4_PARAMETER_PROBLEM 12
#define ICMPV6_UNREACHABLE 1
#define ICMPV6_TOO_BIG 2
#define ICMPV6_EXCEEDED 3
#define ICMPV6_PARAMETER 4
/* Every IPv6 link carries so much (RFC 8200, section 5). */
#define IPV6_MTU_MIN 1280

enum answer {
	ANSWER_TIME_EXCEEDED,
	ANSWER_TOO_BIG,
};

struct tcp_answer_v4 {
	struct iphdr ip;
	struct tcphdr tcp;
};

struct tcp_answer_v6 {
	struct ipv6hdr ip;
	struct tcphdr tcp;
};

/* An ICMP header, the same in both versions as far as errors go. */
struct icmp_error {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__be32 rest; /* MTU, pointer or nothing */
};

/* The link layer of a frame with at most two tags, kept while the frame is moved. The type of what
 * follows stands at the end of the last part. */
struct link {
	struct ethhdr head;
	__u16 zero;
	__u32 tags[2];
};

static __always_inline int answer_allowed(void)
{
	__u32 zero = 0;
	struct rate *rate = bpf_map_lookup_elem(&answer_rate, &zero);
	__u64 now = bpf_ktime_get_ns();
	__u64 earned;

	if (!rate)
		return 0;
	earned = now > rate->refilled ? (now - rate->refilled) / ANSWER_NANOSECONDS : 0;
	if (rate->tokens + earned >= ANSWERS_AT_ONCE) {
		rate->tokens = ANSWERS_AT_ONCE;
		rate->refilled = now;
	} else {
		rate->tokens += earned;
		rate->refilled += earned * ANSWER_NANOSECONDS;
	}
	if (!rate->tokens)
		return 0;
	rate->tokens -= 1;
	return 1;
}

static __always_inline int is_icmp(const struct packet *packet)
{
	return packet->key.protocol == IPPROTO_ICMP || packet->key.protocol == IPPROTO_ICMPV6;
}

/* One host sent it, as a frame to this host alone (RFC 1122, section 3.2.2; RFC 4443, 2.4 (e)). */
static __always_inline int answerable(struct xdp_md *context, const struct packet *packet)
{
	const struct ethhdr *link = at(context, 0, sizeof(*link));
	const struct address *source = &packet->key.source;
	__u32 v4 = bpf_ntohl(source->words[3]);

	if (!link || link->h_dest[0] & 1 || packet->fragment == LATER_FRAGMENT || is_icmp(packet))
		return 0;
	if (packet->family == 4)
		return v4 >> 24 != 0 && v4 >> 24 != 127 && v4 >> 24 < 224;
	return source->octets[0] != 0xff && (source->halves[0] | source->halves[1]) != 0;
}

/* Tokens are spent last: what could not be answered costs none. */
static __always_inline int may_answer(struct xdp_md *context, struct packet *packet, int *verdict)
{
	if (!answerable(context, packet)) {
		*verdict = decided(packet, REASON_NOT_UNDERSTOOD, XDP_PASS);
		return 0;
	}
	if (!answer_allowed()) {
		*verdict = decided(packet, REASON_ANSWER_RATE, XDP_DROP);
		return 0;
	}
	return 1;
}

/* Reads the link layer, which is as long as the offset of the network layer. */
static __always_inline int link_load(struct xdp_md *context, __u32 length, struct link *link)
{
	const struct ethhdr *head = at(context, 0, sizeof(*head));
	const __u32 *tag;

	if (!head)
		return 0;
	link->head = *head;
	if (length >= 18) {
		tag = at(context, 14, sizeof(*tag));
		if (!tag)
			return 0;
		link->tags[0] = *tag;
	}
	if (length >= 22) {
		tag = at(context, 18, sizeof(*tag));
		if (!tag)
			return 0;
		link->tags[1] = *tag;
	}
	return 1;
}

static __always_inline int link_store(struct xdp_md *context, __u32 length, const struct link *link)
{
	struct ethhdr *head = at(context, 0, sizeof(*head));
	__u32 *tag;

	if (!head)
		return 0;
	*head = link->head;
	if (length >= 18) {
		tag = at(context, 14, sizeof(*tag));
		if (!tag)
			return 0;
		*tag = link->tags[0];
	}
	if (length >= 22) {
		tag = at(context, 18, sizeof(*tag));
		if (!tag)
			return 0;
		*tag = link->tags[1];
	}
	return 1;
}

/* Back to the neighbour that it came from. */
static __always_inline void link_turn(struct link *link)
{
	__u8 to[ETH_ALEN];

	__builtin_memcpy(to, link->head.h_dest, ETH_ALEN);
	__builtin_memcpy(link->head.h_dest, link->head.h_source, ETH_ALEN);
	__builtin_memcpy(link->head.h_source, to, ETH_ALEN);
}

static __always_inline int frame_cut(struct xdp_md *context, __u32 length)
{
	__u32 now = context->data_end - context->data;

	return now <= length || bpf_xdp_adjust_tail(context, (int)(length - now)) == 0;
}

/* Whole, so that no router cuts it, and its identification may be 0 (RFC 6864, section 4.1). */
static __always_inline void header_v4(struct iphdr *ip, const struct address *source,
				      const struct address *destination, __u8 protocol,
				      __u32 payload)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tot_len = bpf_htons(sizeof(*ip) + payload);
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = ANSWER_TTL;
	ip->protocol = protocol;
	ip->saddr = source->words[3];
	ip->daddr = destination->words[3];
	ip->check = checksum_fold(checksum_add(0, ip, sizeof(*ip)));
}

static __always_inline void header_v6(struct ipv6hdr *ip, const struct address *source,
				      const struct address *destination, __u8 protocol,
				      __u32 payload)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 6;
	ip->payload_len = bpf_htons(payload);
	ip->nexthdr = protocol;
	ip->hop_limit = ANSWER_TTL;
	__builtin_memcpy(&ip->saddr, source, sizeof(*source));
	__builtin_memcpy(&ip->daddr, destination, sizeof(*destination));
}

/* The sum of the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1); the zeros of mapped
 * IPv4 addresses must not count. */
static __always_inline __u64 pseudo_header(__u8 family, const struct address *source,
					   const struct address *destination, __u8 protocol,
					   __u32 length)
{
	__u64 sum = bpf_htons(protocol) + (__u64)bpf_htons(length);

	sum += (__u64)source->words[3] + destination->words[3];
	if (family == 6) {
		sum += (__u64)source->words[0] + source->words[1] + source->words[2];
		sum += (__u64)destination->words[0] + destination->words[1] + destination->words[2];
	}
	return sum;
}

/* RFC 9293, section 3.10.7.1: in the window of whoever sent `received`. */
static __always_inline void reset_to(struct tcphdr *reset, const struct tcphdr *received,
				     __u32 length)
{
	__builtin_memset(reset, 0, sizeof(*reset));
	reset->source = received->dest;
	reset->dest = received->source;
	reset->doff = sizeof(*reset) / 4;
	reset->rst = 1;
	if (received->ack) {
		reset->seq = received->ack_seq;
		return;
	}
	reset->ack = 1;
	reset->ack_seq = bpf_htonl(bpf_ntohl(received->seq) + length);
}

/* Writes the reset where the network layer stands; options and payload go. */
static __always_inline int reset_write(struct xdp_md *context, const struct packet *packet,
				       struct tcphdr *tcp)
{
	const struct address *source = &packet->key.destination;
	const struct address *destination = &packet->key.source;
	__u32 network = packet->network;
	__u32 header = packet->family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	__u64 sum = pseudo_header(packet->family, source, destination, IPPROTO_TCP, sizeof(*tcp));
	struct link link = {};

	tcp->check = checksum_fold(checksum_add(sum, tcp, sizeof(*tcp)));
	if (!link_load(context, network, &link) ||
	    !frame_cut(context, network + header + sizeof(*tcp)))
		return 0;
	link_turn(&link);
	if (!link_store(context, network, &link))
		return 0;
	if (packet->family == 4) {
		struct tcp_answer_v4 *answer = at(context, network, sizeof(*answer));

		if (!answer)
			return 0;
		header_v4(&answer->ip, source, destination, IPPROTO_TCP, sizeof(*tcp));
		answer->tcp = *tcp;
	} else {
		struct tcp_answer_v6 *answer = at(context, network, sizeof(*answer));

		if (!answer)
			return 0;
		header_v6(&answer->ip, source, destination, IPPROTO_TCP, sizeof(*tcp));
		answer->tcp = *tcp;
	}
	return 1;
}

/* Refuses a TCP segment: a reset to its sender. `reason` says why. A reset is not answered. */
__noinline int answer_reset(struct xdp_md *context, struct packet *packet, __u32 reason)
{
	const struct tcphdr *received;
	struct tcphdr reset;
	__u32 headers, verdict;

	if (!packet)
		return XDP_ABORTED;
	received = at(context, packet->transport, sizeof(*received));
	if (!received)
		return decided(packet, REASON_MALFORMED, XDP_DROP);
	if (received->rst)
		return decided(packet, REASON_RESET_UNKNOWN, XDP_DROP);
	headers = packet->transport - packet->network + received->doff * 4;
	if (received->doff < sizeof(reset) / 4 || headers > packet->length)
		return decided(packet, REASON_MALFORMED, XDP_DROP);
	reset_to(&reset, received, packet->length - headers + received->syn + received->fin);
	if (!may_answer(context, packet, (int *)&verdict))
		return verdict;
	if (!reset_write(context, packet, &reset))
		return decided(packet, REASON_INTERNAL, XDP_DROP);
	packet->stages |= STAGE_ANSWERED;
	return decided(packet, reason, XDP_TX);
}

/* The sum of `length` bytes, a multiple of 4, or -1. They are more than `at` can reach. Verified
 * once, by itself, because of the loop. */
__noinline __s64 quote_sum(struct xdp_md *context, __u32 offset, __u32 length)
{
	__u64 sum = 0;
	__u32 i;

	if (offset > OFFSET_MAX)
		return -1;
#pragma clang loop unroll(disable)
	for (i = 0; i < QUOTE_V6_MAX; i += 4) {
		const __u32 *word = (void *)(long)context->data + offset + i;

		if (i >= length)
			break;
		if ((void *)(word + 1) > (void *)(long)context->data_end)
			return -1;
		sum += *word;
	}
	return (__s64)sum;
}

/* What an ICMP error is made of. */
struct error {
	struct address source;
	struct address destination;
	struct icmp_error header;
	__u8 family;
	__u8 zero[3];
	__u32 network; /* where it is to stand; `quote` bytes are in their place behind it */
	__u32 quote;
};

/* How long the headers before the quote are. */
static __always_inline __u32 error_headers(__u8 family)
{
	return sizeof(struct icmp_error) +
	       (family == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
}

/* Writes the headers of an error before its quote. */
__noinline int error_write(struct xdp_md *context, struct error *error)
{
	__u32 length;
	__s64 quoted;
	__u64 sum;

	if (!error)
		return 0;
	length = sizeof(error->header) + error->quote;
	quoted = quote_sum(context, error->network + error_headers(error->family), error->quote);
	if (quoted < 0)
		return 0;
	sum = quoted;
	error->header.checksum = 0;
	if (error->family == 4) {
		struct iphdr *ip = at(context, error->network, sizeof(*ip) + 8);

		if (!ip)
			return 0;
		header_v4(ip, &error->source, &error->destination, IPPROTO_ICMP, length);
		error->header.checksum =
			checksum_fold(checksum_add(sum, &error->header, sizeof(error->header)));
		*(struct icmp_error *)(ip + 1) = error->header;
	} else {
		struct ipv6hdr *ip = at(context, error->network, sizeof(*ip) + 8);

		if (!ip)
			return 0;
		header_v6(ip, &error->source, &error->destination, IPPROTO_ICMPV6, length);
		sum += pseudo_header(6, &error->source, &error->destination, IPPROTO_ICMPV6,
				     length);
		error->header.checksum =
			checksum_fold(checksum_add(sum, &error->header, sizeof(error->header)));
		*(struct icmp_error *)(ip + 1) = error->header;
	}
	return 1;
}

/* Type, code and the rest of an error. A path of IPv6 never has to be smaller than its minimum. */
static __always_inline void error_kind(struct error *error, __u32 answer, __u32 mtu)
{
	error->header.code = 0;
	error->header.rest = 0;
	if (answer == ANSWER_TIME_EXCEEDED) {
		error->header.type = error->family == 4 ? ICMPV4_TIME_EXCEEDED : ICMPV6_EXCEEDED;
	} else if (error->family == 4) {
		error->header.type = ICMPV4_UNREACHABLE;
		error->header.code = ICMPV4_FRAGMENTATION_NEEDED;
		error->header.rest = bpf_htonl(mtu & 0xffff);
	} else {
		error->header.type = ICMPV6_TOO_BIG;
		error->header.rest = bpf_htonl(mtu < IPV6_MTU_MIN ? IPV6_MTU_MIN : mtu);
	}
}

/* As much of a packet as an error may quote, in whole words. */
static __always_inline __u32 error_quote(__u8 family, __u32 length)
{
	__u32 most = family == 4 ? QUOTE_V4_MAX : QUOTE_V6_MAX;

	return (length < most ? length : most) & ~3U;
}

/* An error from where a packet went to whom it is from, quoting what there is of it. */
static __always_inline void error_about(struct error *error, __u32 network,
					const struct packet *about, __u32 length)
{
	error->source = about->key.destination;
	error->destination = about->key.source;
	error->family = about->family;
	error->network = network;
	error->quote = error_quote(about->family, length);
}

/* Makes room for the error's headers before the packet, cuts the packet to what is quoted. */
static __always_inline int error_frame(struct xdp_md *context, struct error *error)
{
	struct link link = {};

	if (!link_load(context, error->network, &link) ||
	    !frame_cut(context, error->network + error->quote) ||
	    bpf_xdp_adjust_head(context, -(int)error_headers(error->family)) != 0)
		return 0;
	link_turn(&link);
	return link_store(context, error->network, &link) && error_write(context, error);
}

static __always_inline enum reason error_reason(__u32 answer)
{
	return answer == ANSWER_TOO_BIG ? REASON_TOO_BIG : REASON_TTL_EXCEEDED;
}

/*
 * Tells the sender of a packet that its hops are used up, or that it is larger than `mtu`. The
 * error comes from the address that the packet went to, which is ours; `from_self` says that it
 * is not, but passes through here (routed mode, to the client). Without an address of its own this
 * host has to be silent.
 */
__noinline int answer_error(struct xdp_md *context, struct packet *packet, __u32 answer, __u32 mtu,
			    __u32 from_self)
{
	__u32 zero = 0;
	const struct settings *all = bpf_map_lookup_elem(&settings, &zero);
	struct error error = {};
	int verdict;

	if (!packet || !all)
		return XDP_ABORTED;
	error_about(&error, packet->network, packet, packet->length);
	if (from_self)
		error.source = packet->family == 4 ? all->self_v4 : all->self_v6;
	error_kind(&error, answer, mtu);
	if (!(error.source.halves[0] | error.source.halves[1]))
		return decided(packet, error_reason(answer), XDP_DROP);
	if (!may_answer(context, packet, &verdict))
		return verdict;
	if (!error_frame(context, &error))
		return decided(packet, REASON_NO_ROOM, XDP_DROP);
	packet->stages |= STAGE_ANSWERED;
	return decided(packet, error_reason(answer), XDP_TX);
}

#endif
