/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The data path: parse, find the flow or open one, route, rewrite, leave. What is not understood
 * goes to the kernel untouched.
 *
 * A packet of an established flow stays in this function from end to end. All that is unusual is
 * behind calls to functions that the verifier checks once, by themselves.
 */
#include "exported.h"
#include "errors.h"
#include "fragment.h"
#include "hint.h"
#include "leave.h"
#include "mss.h"
#include "open.h"
#include "rewrite.h"
#include "way.h"

/* The program on one page:
 *
 *	parse -> fragment -> flow -> unusual? -> forward, in mode dsr encapsulated -> leave
 *	                      |         |
 *	                      +-> settle: follow its phase, or open a flow, or refuse
 *	                      +-> settle_icmp: to the flow that an error quotes
 */

/* Remembers a first fragment. One whose source is rewritten is sent under another name. */
static __always_inline int rename(struct xdp_md *context, struct packet *packet, __u32 mode)
{
	if (packet->fragment == FIRST_FRAGMENT)
		fragment_remember(packet);
	if (mode == MODE_NAT || packet->direction == TO_CLIENT)
		return fragment_rename(context, packet);
	return 1;
}

static __noinline int forward(struct xdp_md *context, struct packet *packet,
				   struct flow *flow)
{
	struct interface *interface = NULL;
	struct question question;
	struct leg leg;
	struct flow_key after;
	enum routing routing;
	__u32 mode = flow->mode;

	packet->stages |= STAGE_FLOW_FOUND;
	packet->service = flow->service;
	packet->backend = flow->backend_id;
	question_of(context, packet, flow, &question);
	count_packet(packet, flow);
	tuple_after(flow, packet, &after);
	routing = recall(&question, packet, &leg)
			  ? ROUTED
			  : asked(context, packet, &after, &question, &leg);
	if (routing == ROUTED) {
		interface = egress_of(packet);
		if (!interface)
			return decided(packet, REASON_UNTRANSMITTABLE, XDP_DROP);
	}
	if (routing == TOO_BIG) {
		packet->path_mtu = leg.mtu;
		return UNDECIDED;
	}
	if (routing == UNROUTED)
		return XDP_DROP;
	if (packet->tcp_flags & TCP_SYN)
		mss_clamp(context, packet, routing == ROUTED ? leg.mtu : ~0U);
	if (!rewrite(context, packet, &after) ||
	    (packet->fragment != WHOLE && !rename(context, packet, mode)))
		return decided(packet, REASON_INTERNAL, XDP_DROP);
	return interface ? transmit(context, packet, &leg, interface) : defer(context, packet);
}

/*
 * Whether a frame is addressed to the interface that it came by. A switch that does not know where
 * somebody sits floods frames for him, and another appliance's must not be answered here. Of
 * frames to a group the kernel knows more.
 */
static __always_inline int is_addressed(struct xdp_md *context)
{
	const struct interface *interface = ELEMENT(interfaces, context->ingress_ifindex);
	const __u8 *to = at(context, 0, ETH_ALEN);

	if (!interface || !to)
		return 1;
	return !((*(const __u32 *)to ^ *(const __u32 *)interface->address) |
		 (*(const __u16 *)(to + 4) ^ *(const __u16 *)(interface->address + 4))) ||
	       !(*(const __u32 *)interface->address | *(const __u16 *)(interface->address + 4));
}

static __always_inline int decide(struct xdp_md *context, struct packet *packet)
{
	int verdict = parse(context, packet);
	struct flow *flow;

	if (verdict != UNDECIDED)
		return verdict;
	if (!is_addressed(context))
		return decided(packet, REASON_NOT_OURS, XDP_PASS);
	packet->now = seconds_now();
	if (packet->fragment == LATER_FRAGMENT) {
		packet->reason = REASON_FRAGMENT;
		verdict = fragment_recall(context, packet);
		if (verdict != UNDECIDED)
			return verdict;
	}
	flow = flow_of(packet);
	if (!flow || unusual(packet, flow)) {
		verdict = !flow && is_icmp(packet)
				  ? settle_icmp(context, packet)
				  : settle(context, packet, flow ? flow->mode : NO_FLOW);
		if (verdict != UNDECIDED)
			return verdict;
		flow = ELEMENT(flows, packet->record);
		if (!flow)
			return decided(packet, REASON_INTERNAL, XDP_DROP);
	}
	verdict = flow->mode == MODE_DSR ? forward_encapsulated(context, packet)
					 : forward(context, packet, flow);
	if (verdict == UNDECIDED)
		verdict = answer_error(context, packet, ANSWER_TOO_BIG, packet->path_mtu,
				       is_transit(packet, flow->mode));
	return verdict;
}

SEC("xdp")
int haflinger(struct xdp_md *context)
{
	struct packet packet = {};
	__u32 length = context->data_end - context->data;
	int verdict = decide(context, &packet);

	return leave(context, &packet, length, verdict);
}

/* Records that one run of `sweep` looks at. */
#define SWEEP_MAX 4096

/* Releases the expired flows of a part of the records; returns how many. The daemon runs it as a
 * test, part by part. */
SEC("syscall")
int sweep(struct sweep *part)
{
	__u32 first = part->first, count = part->count, now = part->now;
	int released = 0;
	__u32 i;

	for (i = 0; i < SWEEP_MAX && i < count; i++)
		released += expire(first + i, now);
	return released;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
