/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Every layout that program and daemon share. The Rust types are generated from the BTF of the
 * object, so nothing here is written twice. A change of a struct, of an enum's numbers or of a
 * map changes the layout version under which the maps are pinned (the loader hashes them).
 *
 * Addresses are 16 bytes; IPv4 stands as IPv4-mapped IPv6 (RFC 4291, section 2.5.5.2). Ports
 * and addresses are in network order, all else in the host's. Times are whole seconds of the
 * monotonic clock since boot, in 32 bits.
 */
#ifndef HAFLINGER_TYPES_H
#define HAFLINGER_TYPES_H

#include <linux/types.h>

struct address {
	union {
		__u8 octets[16];
		__be32 words[4];
		__u64 halves[2];
	};
};

/* One direction of a flow, as its packets carry it. */
struct flow_key {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 protocol;
	__u8 zero[3];
};

enum direction {
	TO_BACKEND,
	TO_CLIENT,
};

/* Where the record of a flow stands: what the index of flows finds. Eight bytes, written as one. */
struct flow_reference {
	__u32 record;
	__u32 direction; /* enum direction */
};

enum mode {
	MODE_NAT,
	MODE_ROUTED,
	MODE_DSR,
};

/* Who may touch a flow's record. Only who exchanges LIVE for another state may release or move it.
 * LIVE and MOVING records are read. */
enum record_state {
	RECORD_FREE,
	RECORD_CLAIMED,
	RECORD_LIVE,
	RECORD_MOVING, /* from the opening region to the established one */
};

/* How far a flow has come; each phase has a timeout of its own. */
enum phase {
	PHASE_OPENING,	   /* SYN seen; or a datagram, and no answer */
	PHASE_ANSWERED,	   /* SYN and SYN-ACK seen */
	PHASE_ESTABLISHED, /* handshake complete */
	PHASE_CLOSING,	   /* FIN seen in one direction */
	PHASE_CLOSED,	   /* FIN seen in both, or RST */
	PHASE_DATAGRAMS,   /* UDP in both directions */
};

/* Two cache lines. The first is read for every packet, the second is written. */
struct flow {
	struct flow_key client; /* client to VIP, as the client sends it */
	__u32 state;		/* enum record_state, exchanged atomically */
	__u32 touched;		/* last packet, in seconds */
	__u8 phase;		/* enum phase */
	__u8 mode;		/* enum mode */
	__u8 finished;		/* bit per direction in which FIN was seen */
	__u8 zero;
	__be16 backend_port;
	__be16 source_port; /* what the backend sees as the client's */
	__u32 service;
	__u32 backend_id;

	struct address backend;
	struct address source; /* what the backend sees as the client's */
	__u64 bytes[2];	       /* by direction: frames without the link layer */
	__u32 packets[2];      /* by direction, modulo 2^32 */
	__u32 created;	       /* in seconds */
	/* While it opens, the acknowledgement that completes the handshake, in network order. Then a
	 * number that tells it from flows that had the record before. */
	__u32 mark;
};

/* A guess at a flow: where it was found last. Eight bytes, written as one. */
struct hint {
	__u32 record;
	__u32 check; /* of the tuple; its last bit is the direction */
};

/* How many changes of routes and neighbours the kernel has told of. */
struct generation {
	__u32 number; /* 0: nobody listens */
	__u32 zero;
};

/* How a packet leaves this host. Two words. */
struct leg {
	union {
		struct {
			__u16 egress; /* index of the interface; 0: one that is not known */
			__u16 mtu;    /* of the way, in bytes */
			__u32 link[3]; /* 12 bytes: destination and source of the link layer */
		};
		__u64 words[2];
	};
};

/* An answer of the kernel's routes, and what the question was. */
struct way {
	__u64 sum;   /* of the time of the question and of the answer */
	__u32 whose; /* the mark of the flow and the interface that the packet came by */
	__u32 label; /* what packets of one flow may differ in: traffic class, flow label */
	struct leg leg;
};

/* The ways of a flow, by direction. */
struct ways {
	struct way to[2];
};

struct service_key {
	struct address vip;
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

enum algorithm {
	ALGORITHM_HASH,
	ALGORITHM_SOURCE,
	ALGORITHM_ROUND_ROBIN,
	ALGORITHM_LEAST_CONNECTIONS,
};

/* Seconds without a packet after which a flow in that phase is forgotten; in the order of phases. */
struct timeouts {
	__u32 opening; /* and ANSWERED */
	__u32 established;
	__u32 closing;
	__u32 closed;
	__u32 datagrams;
};

/* Which buckets a table has. Eight bytes, written as one: a reader sees the old table or the new. */
struct table {
	__u32 first; /* its first bucket in the array of buckets */
	__u32 bits;  /* it has 2^bits buckets; no table is empty, so 0 means that there is none */
};

struct service {
	struct service_key key; /* whose slot this is: checked by every reader */
	__u8 mode;		/* enum mode */
	__u8 algorithm;		/* enum algorithm */
	__u8 ranged;		/* only clients within source_ranges are served */
	__u8 zero;
	struct table table __attribute__((aligned(8)));
	struct timeouts timeouts;
	__u32 affinity;			/* seconds, with ALGORITHM_SOURCE */
	__u32 connections_max;		/* 0: no limit */
	__u32 backend_connections_max;	/* 0: no limit */
};

/* What the program writes of a service. */
struct service_load {
	__u32 connections; /* live flows, whose records name the service */
	__u32 turn;	   /* next turn of round-robin */
};

/* No hop; backend 0 is never used. */
#define NO_BACKEND 0

/* Eight bytes, written as one. */
struct bucket {
	__u32 first;
	__u32 second;
};

enum backend_state {
	BACKEND_FREE,
	BACKEND_ACTIVE,	  /* takes new flows */
	BACKEND_DRAINING, /* keeps its old ones */
	BACKEND_DOWN,	  /* its TCP flows last until they end, its UDP flows are forgotten */
};

struct backend {
	struct address address;
	__be16 port;
	__u8 state; /* enum backend_state */
	__u8 zero;
	__u32 service;
	__u32 weight;
	__u16 sources_first; /* its slots in the array of sources, mode nat */
	__u16 sources_count;
};

struct backend_load {
	__u32 connections; /* live flows, whose records name the backend */
};

/* Per CPU. */
struct backend_counters {
	__u64 packets[2]; /* by direction */
	__u64 bytes[2];
	__u64 flows; /* ever created */
};

/* An address and a range of ports that nat mode sends from. */
struct source {
	struct address address;
	__u16 port_min; /* host order, inclusive */
	__u16 port_max;
	__u32 zero;
};

struct range_key {
	__u32 prefix_length; /* 32 bits of the service, then those of the address */
	__u32 service;
	struct address client;
};

struct affinity_key {
	__u32 service;
	struct address client;
};

struct affinity {
	__u32 backend;
	__u32 touched; /* in seconds */
};

/* The fragments of one datagram. */
struct fragment_key {
	struct address source;
	struct address destination;
	__be32 identification; /* 16 bits of IPv4 at the front */
	__u8 protocol;
	__u8 zero[3];
};

/* What only the first of them carries: with it the others find the same flow. */
struct fragment {
	__be16 source_port;
	__be16 destination_port;
	__be32 identification; /* what it is sent with: two clients may use the same */
	__u32 seen;	       /* its first, in seconds */
	__u8 protocol;	       /* that of IPv6 stands behind headers that only the first has */
	__u8 zero[3];
};

/* An interface, by its index: how a packet leaves by it, and which frames are for this host. */
struct interface {
	__u32 redirect; /* index of the interface to transmit on: its own, or its parent's */
	__u32 mtu;	/* of the network layer, in bytes */
	__be16 vlan;	/* tag to push; 0: none */
	__be16 vlan_protocol;
	__u8 transmits; /* redirected frames can leave by it */
	__u8 zero[3];
	__u8 address[6]; /* of the link layer; zero: it takes frames to any */
	__u8 zero_too[2];
};

/* What the daemon may change at run time. One element, each field written as one. */
struct settings {
	__u8 hash_key[16];	/* of the flow hash, as in haflinger-core */
	__u32 new_flows_rate;	/* a second and CPU; 0: no limit */
	__u32 trace_one_in;	/* 0: tracing is off */
	struct flow_key trace;	/* zero fields match anything; either direction */
	struct address tunnel_source_v4; /* outer source address, mode dsr */
	struct address tunnel_source_v6;
	struct address self_v4; /* source of ICMP errors that answer a packet to no VIP */
	struct address self_v6;
};

/* Tokens of the rate at which one CPU may create flows. */
struct rate {
	__u64 refilled; /* nanoseconds */
	__u64 tokens;
};

/* The first records are for flows that are opening, so that a flood of them cannot reach the rest. */
enum region {
	REGION_OPENING,
	REGION_ESTABLISHED,
	REGIONS,
};

/* Where a CPU looks next for a record. */
struct hands {
	__u32 next[REGIONS];
};

/* What became of flows, per CPU. */
struct flow_counters {
	__u64 opened;
	__u64 promoted;	 /* from the opening region to the established one */
	__u64 stayed;	 /* could not be promoted: no record could be had there; tried again */
	__u64 reopened;	 /* a SYN after the end: counted as opened too */
	__u64 forgotten; /* UDP: the backend is down or gone */
	__u64 expired;
	__u64 evicted[REGIONS]; /* before their time, to make room */
};

/* What the program `sweep` is run with. */
struct sweep {
	__u32 first; /* record */
	__u32 count; /* of records, at most 4096 */
	__u32 now;   /* in seconds */
};

/* How many refusals a CPU has remembered in this second. */
struct refusal_budget {
	__u32 second;
	__u32 spent;
};

struct reason_counters {
	__u64 packets;
	__u64 bytes;
};

/* The last refusal of a flow: what `haflinger why` shows. */
struct refusal {
	__u32 reason; /* enum reason */
	__u32 at;     /* in seconds */
};

/* Which stages a packet has passed, as bits. */
enum stage {
	STAGE_PARSED = 1,
	STAGE_FLOW_FOUND = 2,
	STAGE_SERVICE_FOUND = 4,
	STAGE_FLOW_CREATED = 8,
	STAGE_REWRITTEN = 16,
	STAGE_ENCAPSULATED = 32,
	STAGE_ROUTED = 64,
	STAGE_ANSWERED = 128, /* turned into an answer to its sender */
};

/* One traced packet. */
struct trace_event {
	__u64 nanoseconds; /* monotonic clock */
	struct flow_key packet; /* as received */
	__u32 stages;
	__u32 reason;
	__u32 verdict; /* enum xdp_action */
	__u32 service;
	__u32 backend;
	__u32 record;
	__u32 ingress; /* interface index */
	__u32 egress;
	__u16 length;
	__u8 tcp_flags;
	__u8 zero[5];
};

/* Per CPU. */
struct trace_counters {
	__u64 matched; /* packets that the filter lets through, of which one in so many is shown */
	__u64 lost;    /* events for which the ring buffer had no room */
};

/* A packet that the daemon sends in the program's place, because the kernel knows no neighbour for
 * it yet or has to cut it: this header, then the packet from its network layer on. */
struct deferred {
	__u32 length;
	__u16 protocol; /* ETH_P_IP or ETH_P_IPV6, host order */
	__u16 offset;	/* of the network layer within what follows */
};

#endif
