/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The XDP program as it is, compiled for this machine, so that sanitizers and a fuzzer see into it.
 * The helpers are told by `struct host` what to answer; only maps and what a packet becomes are
 * looked after by the target. One thread.
 *
 * An access outside a map's element or outside the frame is found by the address sanitizer; the
 * verifier's promise is not taken for granted here, since it says nothing of what it was not given.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#if __has_feature(address_sanitizer)
/*
 * The sanitizer's interface, which the toolchain of the targets links. Declared here because
 * clang's header for it is in a package that clang only recommends.
 */
void __asan_poison_memory_region(void const volatile *start, __SIZE_TYPE__ size);
void __asan_unpoison_memory_region(void const volatile *start, __SIZE_TYPE__ size);
#define ASAN_POISON_MEMORY_REGION(start, size) __asan_poison_memory_region(start, size)
#define ASAN_UNPOISON_MEMORY_REGION(start, size) __asan_unpoison_memory_region(start, size)
#else
#define ASAN_POISON_MEMORY_REGION(start, size)
#define ASAN_UNPOISON_MEMORY_REGION(start, size)
#endif

/* Constants that the loader writes before the program is loaded are variables here. */
#define opening_records unloaded_opening_records
#define established_records unloaded_established_records
#define hint_mask unloaded_hint_mask
/* A function of the C library, for everybody else in this process. */
#define clock host_clock
#include "maps.h"
#undef opening_records
#undef established_records
#undef hint_mask
static __u32 opening_records, established_records, hint_mask;

/* In BPF's instruction set it tells the verifier a bound that holds anyway. */
#define asm if (0) __asm__
#include "haflinger.bpf.c"
#undef asm

/* As long as the kernel's, before the frame. */
#define HEAD_ROOM 256

#define PAGE 4096

/* What the route to an address says. */
struct host_route {
	__u32 result; /* BPF_FIB_LKUP_RET_* */
	__u32 interface;
	__u32 mtu;
	__u8 to[6];
	__u8 from[6];
};

/* What the next run is to find. */
struct host {
	__u64 nanoseconds;
	__u32 random;	    /* of the generator; any */
	__u32 socket;	    /* state of the socket that holds the connection; 0: there is none */
	__u32 unheard;	    /* nobody takes deferred packets */
	__u32 changes;	    /* of routes, ever */
	__u32 redirect;	    /* out: the interface that the packet was sent to */
	struct trace_event event; /* out */
};

struct host host;

/* Of the target. */
void host_route_to(__u8 family, const void *destination, struct host_route *route);
void host_deferred(const struct deferred *header, const void *packet);

struct host_map {
	const char *name;
	const void *map;
	__u32 kind; /* BPF_MAP_TYPE_* */
	__u32 key;
	__u32 value;
	__u32 entries; /* 1: the loader says how many */
};

#define NUMBER(array) (sizeof(*(array)) / sizeof(int))
#define MAP(name)                                                                                  \
	{                                                                                          \
		#name, &name, NUMBER(name.type), sizeof(*name.key), sizeof(*name.value),           \
			NUMBER(name.max_entries)                                                   \
	}

const struct host_map host_maps[] = {
	MAP(flow_index),      MAP(flows),	  MAP(hands),	      MAP(flow_counters),
	MAP(rate),	      MAP(service_index), MAP(services),      MAP(service_loads),
	MAP(buckets),	      MAP(source_ranges), MAP(affinities),    MAP(backends),
	MAP(backend_loads),   MAP(backend_counters), MAP(sources),    MAP(interfaces),
	MAP(fragments),	      MAP(answer_rate),	  MAP(settings),      MAP(identifications),
	MAP(reasons),	      MAP(refusals),	  MAP(refusal_budget), MAP(scratch),
	MAP(trace_counters),  MAP(hints),	  MAP(generation),    MAP(ways),
	MAP(clock),	      MAP(routes_asked),
};
const __u32 host_map_count = sizeof(host_maps) / sizeof(host_maps[0]);

/* `hints` is a power of two. */
void host_records(__u32 opening, __u32 established, __u32 hints)
{
	hint_mask = hints - 1;
	opening_records = opening;
	established_records = established;
}

/* Memory for frames, within reach of the 32 bits in which a program is given its frame, and with
 * nothing behind its end. NULL: there is none. */
void *host_memory(__u32 size)
{
	__u8 *memory = mmap(NULL, size + PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	if (memory == MAP_FAILED || mprotect(memory + size, PAGE, PROT_NONE))
		return NULL;
	return memory;
}

/* Only what lies within the frame may be touched. */
static void host_fence(const struct xdp_md *context, __u32 start, __u32 end)
{
	ASAN_POISON_MEMORY_REGION((void *)(long)start, end - start);
	ASAN_UNPOISON_MEMORY_REGION((void *)(long)context->data,
				    context->data_end - context->data);
	(void)context, (void)start, (void)end;
}

/* Where the memory that `context` points into begins: the frame may grow down to there. */
static __u32 host_start;

int host_run(struct xdp_md *context)
{
	__u32 start = context->data - HEAD_ROOM, end = context->data_end;
	int verdict;

	host_start = start;
	host_fence(context, start, end);
	verdict = haflinger(context);
	ASAN_UNPOISON_MEMORY_REGION((void *)(long)start, end - start);
	return verdict;
}

/* What of the kernel the program reads behind its context. */
static struct rt6_statistics host_statistics;
static struct net host_net = {.ipv6 = {.rt6_stats = &host_statistics}};
static struct net_device host_device = {.nd_net = {.net = &host_net}};
static struct xdp_rxq_info host_queue = {.dev = &host_device};
static struct xdp_buff host_buffer = {.rxq = &host_queue};

void *bpf_cast_to_kern_ctx(void *context)
{
	(void)context;
	host_net.nexthop.seq = host.changes;
	return &host_buffer;
}

/* A tick every four milliseconds. */
__u64 bpf_jiffies64(void)
{
	return host.nanoseconds / 4000000;
}

__u64 bpf_ktime_get_ns(void)
{
	return host.nanoseconds;
}

__u64 bpf_ktime_get_coarse_ns(void)
{
	return host.nanoseconds;
}

__u32 bpf_get_prandom_u32(void)
{
	host.random = host.random * 1664525 + 1013904223;
	return host.random ^ host.random >> 16;
}

long bpf_xdp_adjust_head(struct xdp_md *context, int by)
{
	__u32 data = context->data + by;

	if (data < host_start || data + ETH_HLEN > context->data_end)
		return -22 /* EINVAL */;
	context->data = data;
	host_fence(context, host_start, context->data_end);
	return 0;
}

long bpf_xdp_adjust_tail(struct xdp_md *context, int by)
{
	__u32 old = context->data_end, end = old + by;

	if (by > 0 || end < context->data + ETH_HLEN)
		return -22 /* EINVAL */;
	context->data_end = end;
	host_fence(context, host_start, old);
	return 0;
}

long bpf_redirect(__u32 interface, __u64 flags)
{
	host.redirect = interface;
	return flags ? XDP_ABORTED : XDP_REDIRECT;
}

/* In the kernel's order: the route, the size, the neighbour. */
long bpf_fib_lookup(void *context, struct bpf_fib_lookup *route, int size, __u32 flags)
{
	struct host_route found = {};
	(void)context, (void)size, (void)flags;

	host_route_to(route->family, route->family == AF_INET ? (void *)&route->ipv4_dst
							       : (void *)route->ipv6_dst,
		      &found);
	if (found.result != BPF_FIB_LKUP_RET_SUCCESS && found.result != BPF_FIB_LKUP_RET_NO_NEIGH)
		return found.result;
	route->ifindex = found.interface;
	if (route->tot_len > found.mtu) {
		route->mtu_result = found.mtu;
		return BPF_FIB_LKUP_RET_FRAG_NEEDED;
	}
	if (found.result == BPF_FIB_LKUP_RET_NO_NEIGH)
		return found.result;
	route->mtu_result = found.mtu;
	__builtin_memcpy(route->dmac, found.to, sizeof(found.to));
	__builtin_memcpy(route->smac, found.from, sizeof(found.from));
	return BPF_FIB_LKUP_RET_SUCCESS;
}

static struct bpf_sock host_socket;

struct bpf_sock *bpf_sk_lookup_tcp(void *context, struct bpf_sock_tuple *tuple, __u32 size,
				   __u64 namespace, __u64 flags)
{
	(void)context, (void)tuple, (void)size, (void)namespace, (void)flags;
	host_socket.state = host.socket;
	return host.socket ? &host_socket : NULL;
}

long bpf_sk_release(struct bpf_sock *socket)
{
	return socket == &host_socket ? 0 : -22 /* EINVAL */;
}

long bpf_perf_event_output(void *context, void *map, __u64 flags, void *header, __u64 size)
{
	const struct xdp_md *frame = context;
	__u32 length = flags >> 32;
	(void)map;

	if (size != sizeof(struct deferred) || length > frame->data_end - frame->data)
		return -14 /* EFAULT */;
	if (host.unheard)
		return -2 /* ENOENT */;
	host_deferred(header, (void *)(long)frame->data);
	return 0;
}

void *bpf_ringbuf_reserve(void *map, __u64 size, __u64 flags)
{
	(void)map, (void)flags;
	return size == sizeof(host.event) ? &host.event : NULL;
}

void bpf_ringbuf_submit(void *event, __u64 flags)
{
	(void)event, (void)flags;
}
