/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * For benchmarks only, never part of the product: lays a frame out anew and hands it on. The
 * kernel's test runs repeat a program on one frame, which the data path rewrites at the first of
 * them, so that without this all further ones would measure another packet. What this costs is
 * measured with a program behind it that does nothing, and subtracted.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* As much of a frame as is laid out: all that the data path may change. */
#define FRAME 96

/* Where the client's address ends and where its port is, behind an Ethernet header. */
#define ADDRESS_V4 26
#define PORT_V4 34
#define ADDRESS_V6 34
#define PORT_V6 54

struct plan {
	__u64 frame[FRAME / 8];
	__u32 v6;
	__u32 address; /* host order: the last word of the first client's address */
	__u32 port;    /* host order: its first port */
	__u32 mask;    /* flows less one, their number a power of two; 0: one flow */
	__u32 turn;
};

struct plan plan = {};

enum subject {
	SUBJECT_NOTHING,
	SUBJECT_PROGRAM,
	SUBJECTS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, SUBJECTS);
	__type(key, __u32);
	__type(value, __u32);
} subjects SEC(".maps");

/* Ports that one client uses: the low bits of a flow's number. */
#define PORT_BITS 10

/* The number of the next flow: all of them in a fixed disorder, which no prefetcher follows. */
static __always_inline __u32 next(void)
{
	plan.turn = plan.turn * 1664525 + 1013904223;
	return plan.turn & plan.mask;
}

static __always_inline int lay_out(struct xdp_md *context)
{
	__u8 *data = (void *)(long)context->data;
	__u64 *words = (void *)data;
	__u32 number = next();
	__be32 address = bpf_htonl(plan.address + (number >> PORT_BITS));
	__be16 port = bpf_htons(plan.port + (number & ((1 << PORT_BITS) - 1)));
	int i;

	if (data + FRAME > (__u8 *)(long)context->data_end)
		return 0;
#pragma unroll
	for (i = 0; i < FRAME / 8; i++)
		words[i] = plan.frame[i];
	if (plan.v6) {
		__builtin_memcpy(data + ADDRESS_V6, &address, sizeof(address));
		__builtin_memcpy(data + PORT_V6, &port, sizeof(port));
	} else {
		__builtin_memcpy(data + ADDRESS_V4, &address, sizeof(address));
		__builtin_memcpy(data + PORT_V4, &port, sizeof(port));
	}
	return 1;
}

SEC("xdp")
int nothing(struct xdp_md *context)
{
	(void)context;
	return XDP_PASS;
}

SEC("xdp")
int before_nothing(struct xdp_md *context)
{
	if (lay_out(context))
		bpf_tail_call(context, &subjects, SUBJECT_NOTHING);
	return XDP_ABORTED;
}

SEC("xdp")
int before_program(struct xdp_md *context)
{
	if (lay_out(context))
		bpf_tail_call(context, &subjects, SUBJECT_PROGRAM);
	return XDP_ABORTED;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
