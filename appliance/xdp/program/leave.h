/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The one exit: every packet is counted under its reason, a refused one remembered for
 * `haflinger why`, a traced one shown.
 */
#ifndef HAFLINGER_LEAVE_H
#define HAFLINGER_LEAVE_H

#include "trace.h"

/* Refusals that a CPU remembers in a second. A flood has nothing to tell after a thousand, and one
 * costs as much as forwarding a packet. */
#define REFUSALS_MAX 1000

static __always_inline int is_refusal(const struct packet *packet)
{
	return packet->reason >= REASON_RESET && packet->stages & STAGE_PARSED;
}

__noinline int remember_refusal(struct packet *packet)
{
	__u32 only = 0;
	struct refusal_budget *budget = bpf_map_lookup_elem(&refusal_budget, &only);
	struct refusal refusal;
	struct flow_key key;

	if (!packet || !budget)
		return 0;
	if (budget->second != packet->now) {
		budget->second = packet->now;
		budget->spent = 0;
	}
	if (budget->spent >= REFUSALS_MAX)
		return 0;
	budget->spent += 1;
	refusal.reason = packet->reason;
	refusal.at = packet->now;
	key = packet->key;
	bpf_map_update_elem(&refusals, &key, &refusal, BPF_ANY);
	return 1;
}

static __always_inline int leave(struct xdp_md *context, struct packet *packet, __u32 length,
				 int verdict)
{
	__u32 reason = packet->reason, only = 0;
	struct reason_counters *counters = bpf_map_lookup_elem(&reasons, &reason);
	const struct settings *all = bpf_map_lookup_elem(&settings, &only);

	if (counters) {
		counters->packets += 1;
		counters->bytes += length;
	}
	if (is_refusal(packet))
		remember_refusal(packet);
	if (all && all->trace_one_in)
		trace_packet(context, packet, verdict);
	return verdict;
}

#endif
