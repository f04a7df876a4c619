/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * In place of libbpf's header of this name: what the kernel offers the XDP program, offered to the
 * same source compiled for this machine. Maps and routes are the fuzz target's; see `host.c`.
 */
#ifndef HOST_BPF_HELPERS_H
#define HOST_BPF_HELPERS_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stddef.h>

#define SEC(name)
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define __noinline __attribute__((noinline))
#define __ksym
#define __weak __attribute__((weak))

/* Of the target. */
void *host_lookup(const void *map, const void *key);
long host_update(const void *map, const void *key, const void *value, __u64 flags);
long host_delete(const void *map, const void *key);

#define bpf_map_lookup_elem host_lookup
#define bpf_map_update_elem host_update
#define bpf_map_delete_elem host_delete

/* Of `host.c`. */
__u64 bpf_ktime_get_ns(void);
__u64 bpf_ktime_get_coarse_ns(void);
__u64 bpf_jiffies64(void);
__u32 bpf_get_prandom_u32(void);
long bpf_xdp_adjust_head(struct xdp_md *context, int by);
long bpf_xdp_adjust_tail(struct xdp_md *context, int by);
long bpf_redirect(__u32 interface, __u64 flags);
long bpf_fib_lookup(void *context, struct bpf_fib_lookup *route, int size, __u32 flags);
struct bpf_sock *bpf_sk_lookup_tcp(void *context, struct bpf_sock_tuple *tuple, __u32 size,
				   __u64 namespace, __u64 flags);
long bpf_sk_release(struct bpf_sock *socket);
long bpf_perf_event_output(void *context, void *map, __u64 flags, void *header, __u64 size);
void *bpf_ringbuf_reserve(void *map, __u64 size, __u64 flags);
void bpf_ringbuf_submit(void *event, __u64 flags);

#endif
