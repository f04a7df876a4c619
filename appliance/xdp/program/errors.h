/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What becomes of ICMP: an error goes on to the other end of the flow that it quotes, all else to
 * the kernel. Never answered, whatever is wrong with it: errors about errors multiply (RFC 1122,
 * section 3.2.2; RFC 4443, section 2.4 (e)).
 */
#ifndef HAFLINGER_ERRORS_H
#define HAFLINGER_ERRORS_H

#include "icmp.h"
#include "rewrite.h"
#include "tunnel.h"

/* What an error is forwarded as: whose packet it is about. */
static __always_inline enum reason icmp_forwarded(__u32 direction)
{
	return direction == TO_BACKEND ? REASON_ICMP_TO_BACKEND : REASON_ICMP_TO_CLIENT;
}

/* Sends an error to where packets of its flow go, translated unless it is all ours. */
static __always_inline int icmp_send(struct xdp_md *context, struct packet *packet, __u32 mode)
{
	struct scratch *here = scratch_here();
	struct leg leg = {};
	struct interface *interface = NULL;
	enum routing routing;

	if (!here)
		return XDP_DROP;
	routing = find_route(context, packet, &here->after, &leg);
	if (routing == UNROUTED)
		return XDP_DROP;
	if (routing == TOO_BIG)
		return decided(packet, REASON_TOO_BIG, XDP_DROP);
	if (routing == ROUTED) {
		interface = egress_of(packet);
		if (!interface)
			return decided(packet, REASON_UNTRANSMITTABLE, XDP_DROP);
		packet->reason = icmp_forwarded(packet->direction);
	}
	if (mode != MODE_DSR && (!icmp_translate(context, packet, mode == MODE_NAT) ||
				 !one_hop_less(context, packet)))
		return decided(packet, REASON_INTERNAL, XDP_DROP);
	packet->stages |= STAGE_REWRITTEN;
	return interface ? transmit(context, packet, &leg, interface) : defer(context, packet);
}

/* An error about a packet of a flow, in `scratch`. UNDECIDED: it goes on, in that mode. */
static __always_inline int icmp_of_flow(struct packet *packet, struct scratch *here, __u32 *mode)
{
	const struct flow *flow = find_flow(&here->quote, &here->quote.key);

	if (!flow)
		return decided(packet, REASON_ICMP_UNKNOWN, XDP_PASS);
	packet->record = here->quote.record;
	packet->direction = here->quote.direction;
	packet->service = flow->service;
	packet->backend = flow->backend_id;
	packet->stages |= STAGE_FLOW_FOUND;
	packet->reason = icmp_forwarded(packet->direction);
	if (packet->ttl <= 1)
		return decided(packet, REASON_TTL_EXCEEDED, XDP_DROP);
	tuple_after(flow, &here->quote, &here->after);
	*mode = flow->mode;
	return UNDECIDED;
}

/* The verdict on an ICMP packet. UNDECIDED: it is to be encapsulated, for `packet->record`. */
__noinline int settle_icmp(struct xdp_md *context, struct packet *packet)
{
	struct scratch *here = scratch_here();
	const struct icmp_error *error;
	__u32 mode = MODE_DSR;
	int verdict;

	if (!packet || !here)
		return XDP_DROP;
	error = at(context, packet->transport, sizeof(*error));
	if (!error || !icmp_is_error(packet->family, error->type))
		return decided(packet, REASON_NOT_OURS, XDP_PASS);
	if (packet->fragment != WHOLE)
		return decided(packet, REASON_ICMP_UNKNOWN, XDP_PASS);
	if (icmp_quote(context, packet)) {
		verdict = icmp_of_flow(packet, here, &mode);
		if (verdict != UNDECIDED || mode == MODE_DSR)
			return verdict;
	} else {
		verdict = tunnel_error(context, packet);
		if (verdict != UNDECIDED)
			return verdict;
	}
	return icmp_send(context, packet, mode);
}

#endif
