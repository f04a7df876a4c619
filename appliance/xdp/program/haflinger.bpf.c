/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The data path: parse, find the flow or open one, rewrite, route, leave. What is not understood
 * goes to the kernel untouched.
 */
#include "exported.h"
#include "packet.h"
#include "parse.h"

static __always_inline int decide(struct xdp_md *context, struct packet *packet)
{
	int verdict = parse(context, packet);

	if (verdict != UNDECIDED)
		return verdict;
	return decided(packet, REASON_NOT_OURS, XDP_PASS);
}

/* The one exit: counts every packet under its reason. */
static __always_inline int leave(struct xdp_md *context, struct packet *packet, int verdict)
{
	__u32 reason = packet->reason;
	struct reason_counters *counters = bpf_map_lookup_elem(&reasons, &reason);

	if (counters) {
		counters->packets += 1;
		counters->bytes += context->data_end - context->data;
	}
	return verdict;
}

SEC("xdp")
int haflinger(struct xdp_md *context)
{
	struct packet packet = {};
	int verdict = decide(context, &packet);

	return leave(context, &packet, verdict);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
