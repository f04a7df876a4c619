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

/* Sends an error that is of a flow to where `after` goes; `quote` is NULL if it is all ours. */
static __always_inline int icmp_send(struct xdp_md *context, struct packet *packet,
				     const struct packet *quote, const struct flow_key *after,
				     __u32 mode)
{
	struct bpf_fib_lookup route = {};
	struct interface *interface = NULL;
	enum routing routing = find_route(context, packet, after, &route);

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
	if (quote && (!icmp_translate(context, packet, quote, after, mode == MODE_NAT) ||
		      !one_hop_less(context, packet)))
		return decided(packet, REASON_INTERNAL, XDP_DROP);
	packet->stages |= STAGE_REWRITTEN;
	return interface ? transmit(context, packet, &route, interface) : defer(context, packet);
}

/* An error about a packet that went to the flow's client, or came from it. */
static __always_inline int icmp_of_flow(struct xdp_md *context, struct packet *packet,
					const struct packet *quote, const struct flow *flow)
{
	struct flow_key after;

	packet->record = quote->record;
	packet->direction = quote->direction;
	packet->service = flow->service;
	packet->backend = flow->backend_id;
	packet->stages |= STAGE_FLOW_FOUND;
	if (packet->ttl <= 1)
		return decided(packet, REASON_TTL_EXCEEDED, XDP_DROP);
	if (flow->mode == MODE_DSR) {
		packet->reason = REASON_ICMP_TO_BACKEND;
		return UNDECIDED;
	}
	tuple_after(flow, quote, &after);
	return icmp_send(context, packet, quote, &after, flow->mode);
}

/* The verdict on an ICMP packet. UNDECIDED: it is to be encapsulated, for `packet->record`. */
__noinline int settle_icmp(struct xdp_md *context, struct packet *packet)
{
	struct scratch *here = scratch_here();
	const struct icmp_error *error;
	const struct flow *flow;
	int verdict;

	if (!packet || !here)
		return XDP_DROP;
	error = at(context, packet->transport, sizeof(*error));
	if (!error || !icmp_is_error(packet->family, error->type))
		return decided(packet, REASON_NOT_OURS, XDP_PASS);
	if (packet->fragment != WHOLE)
		return decided(packet, REASON_ICMP_UNKNOWN, XDP_PASS);
	if (icmp_quote(context, packet, &here->quote)) {
		flow = find_flow(&here->quote, &here->quote.key);
		if (flow)
			return icmp_of_flow(context, packet, &here->quote, flow);
		return decided(packet, REASON_ICMP_UNKNOWN, XDP_PASS);
	}
	__builtin_memset(&here->quote, 0, sizeof(here->quote));
	verdict = tunnel_error(context, packet, here);
	if (verdict != UNDECIDED)
		return verdict;
	return icmp_send(context, packet, NULL, &packet->key, MODE_DSR);
}

#endif
