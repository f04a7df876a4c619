/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The ways that the kernel's routes gave to packets of a flow, remembered until something changes.
 * That a changed route takes effect at the next packet holds all the same: what was asked before
 * the kernel counted a change (changes.h) is asked again. The count is read before the question is
 * asked, so an answer that a change overtakes is not remembered as newer than it is.
 *
 * Each answer lasts for the second in which it was asked, at most. So what the kernel counts
 * nowhere (a path MTU that the host has learned, a sysctl) is seen within a second.
 *
 * Only for flows of the established region, and only from their second packet in a second on: for
 * the rest it would not pay.
 *
 * No lock: who reads while another writes gets an answer that does not add up, and asks.
 */
#ifndef HAFLINGER_WAY_H
#define HAFLINGER_WAY_H

#include "changes.h"
#include "hint.h"
#include "route.h"

/* The bits of a traffic class that routes know. The others, ECN, change within a flow. */
#define LABEL_MASK_V4 0xfcU
#define LABEL_MASK_V6 bpf_htonl(0x0fcfffff)

/* What has to be as it was for an answer to hold. */
struct question {
	__u64 time;	 /* `changes_until` */
	__u32 whose;	 /* the flow's mark and the interface that the packet came by, in one */
	__u32 label;	 /* of the packet: of all that routes know, it alone differs within a flow */
	struct way *way; /* where the answer is kept; NULL: it is not */
};

static __always_inline __u32 label_of(const struct packet *packet)
{
	return packet->family == 4 ? packet->traffic_class & LABEL_MASK_V4
				   : packet->flow_information & LABEL_MASK_V6;
}

/* The question that a packet is, as it is to be sent. */
static __always_inline void question_of(struct xdp_md *context, const struct packet *packet,
					const struct flow *flow, struct question *question)
{
	struct ways *kept;

	question->way = NULL;
	if (flow->touched != packet->now || !flow->mark)
		return;
	kept = ELEMENT(ways, packet->record - opening_records);
	question->time = kept ? changes_until(context, packet) : 0;
	if (!question->time)
		return;
	question->whose = flow->mark ^ context->ingress_ifindex;
	question->label = label_of(packet);
	question->way = &kept->to[packet->direction & 1];
}

/* Words that are read one by one while another CPU may write them add up only if all are of one
 * answer, and that to this question. */
static __always_inline __u64 sum_of(__u64 time, const struct leg *leg)
{
	return time + leg->words[0] * MIX_1 + leg->words[1] * MIX_2;
}

static __always_inline int recall(const struct question *question, struct packet *packet,
				  struct leg *leg)
{
	const struct way *way = question->way;

	if (!way)
		return 0;
	leg->words[0] = *(const volatile __u64 *)&way->leg.words[0];
	leg->words[1] = *(const volatile __u64 *)&way->leg.words[1];
	if (*(const volatile __u64 *)&way->sum != sum_of(question->time, leg) ||
	    way->whose != question->whose || way->label != question->label ||
	    packet->length > leg->mtu)
		return 0;
	packet->egress = leg->egress;
	packet->stages |= STAGE_ROUTED;
	return 1;
}

/* Asks the kernel, and remembers what it says where there is a place for it. */
static __noinline enum routing asked(struct xdp_md *context, struct packet *packet,
				     const struct flow_key *after, const struct question *question,
				     struct leg *leg)
{
	enum routing routing = find_route(context, packet, after, leg);
	struct way *way = question->way;
	__u32 only = 0;
	__u64 *count = bpf_map_lookup_elem(&routes_asked, &only);

	if (count)
		*count += 1;
	if (way && routing == ROUTED) {
		way->whose = question->whose;
		way->label = question->label;
		*(volatile __u64 *)&way->leg.words[0] = leg->words[0];
		*(volatile __u64 *)&way->leg.words[1] = leg->words[1];
		*(volatile __u64 *)&way->sum = sum_of(question->time, leg);
	}
	return routing;
}

#endif
