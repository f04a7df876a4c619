/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Why a packet left the program as it did. Each has a line in docs/reasons.md; a test compares.
 * Add at the end: the numbers are read by other tools.
 */
#ifndef HAFLINGER_REASONS_H
#define HAFLINGER_REASONS_H

enum reason {
	/* Forwarded. */
	REASON_FORWARDED,	 /* an existing flow */
	REASON_FORWARDED_NEW,	 /* opened a flow */
	REASON_FORWARDED_ASTRAY, /* no flow known, sent by the table (routed and dsr) */
	REASON_FRAGMENT,	 /* a later fragment */
	REASON_ICMP_TO_BACKEND,	 /* an error about a packet of the backend */
	REASON_ICMP_TO_CLIENT,	 /* an error about a packet of the client */
	REASON_DEFERRED,	 /* handed to the daemon: neighbour unknown, or to be cut */

	/* Passed to the kernel untouched. */
	REASON_NOT_IP,
	REASON_NOT_OURS,	   /* no service and no flow */
	REASON_NOT_UNDERSTOOD,	   /* protocol, header chain or option outside our bounds */
	REASON_LOCAL_SOCKET,	   /* no flow, and a socket of this host holds it */
	REASON_FRAGMENT_UNKNOWN,   /* a later fragment whose first was not seen */
	REASON_ICMP_UNKNOWN,	   /* an error about no flow of ours */
	REASON_NOT_ROUTED,	   /* handed to the daemon: a route that a program cannot follow */

	/* Answered. */
	REASON_RESET,		 /* TCP of no flow, nat: reset sent */
	REASON_TTL_EXCEEDED,
	REASON_TOO_BIG,		 /* fragmentation needed, packet too big */
	REASON_LIMIT_RESET,	 /* a connection limit is reached: reset sent */
	REASON_NO_BACKEND_RESET, /* no backend takes new flows: reset sent */

	/* Dropped. */
	REASON_MALFORMED,	/* truncated or lying */
	REASON_SOURCE_RANGE,	/* the client is outside loadBalancerSourceRanges */
	REASON_NO_BACKEND,
	REASON_SERVICE_LIMIT,
	REASON_BACKEND_LIMIT,
	REASON_FLOW_RATE,	/* too many new flows a second */
	REASON_FLOWS_FULL,	/* no record to be had */
	REASON_SOURCES_EXHAUSTED, /* no free address and port in nat mode */
	REASON_NO_ROUTE,	/* no route, or one that prohibits */
	REASON_DEFER_FAILED,	/* the daemon is not there or does not keep up */
	REASON_UNTRANSMITTABLE, /* the interface cannot transmit redirected frames */
	REASON_NO_ROOM,		/* no head room for the outer header */
	REASON_INTERNAL,	/* a broken invariant; never seen */
	REASON_ANSWER_RATE,	/* to be answered, but this CPU has answered enough this second */
	REASON_RESET_UNKNOWN,	/* a TCP reset of no flow, which is never answered */

	REASONS,
};

#endif
