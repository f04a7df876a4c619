/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * ICMP errors. One belongs to the flow whose packet it quotes, whoever sends it: the quoted tuple
 * turned round is a packet of that flow, in the direction in which the error has to go on. There
 * the quote must look as what its receiver had sent, so it is translated like the packet, the other
 * way round: addresses, ports, and every checksum that is within the quote, all incrementally.
 *
 *	from the client's side: to VIP, quotes VIP -> client
 *		becomes: to backend, quotes backend -> source
 *	from the backend's side: to source, quotes source -> backend
 *		becomes: to client, quotes client -> VIP
 *
 * In nat mode the outer addresses become those of the flow (RFC 5508, section 4.2: neither side
 * knows the routers of the other, and drops what seems to come from them); in routed mode only the
 * address of the backend itself is hidden. Quotes of eight bytes of transport suffice (RFC 792).
 *
 * A quote that matches no flow exactly goes to the kernel (also that of a later fragment, which has
 * no ports), and so does all that is not an error.
 */
#ifndef HAFLINGER_ICMP_H
#define HAFLINGER_ICMP_H

#include "answer.h"
#include "checksum.h"
#include "fragment.h"
#include "packet.h"

/* What RFC 792 has every error quote of the transport: ports, and the length or the sequence. */
#define QUOTED_TRANSPORT 8
#define CHECKSUM_TCP 16
#define CHECKSUM_UDP 6

/* What is too large for the stack: what the error in hand quotes, how packets of that flow are sent
 * in the direction in which it goes on, and an error of ours. */
struct scratch {
	struct packet quote;
	struct flow_key after;
	struct error error;
};

PER_CPU(scratch, struct scratch, 1);

/* This CPU's. */
static __always_inline struct scratch *scratch_here(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&scratch, &only);
}

static __always_inline int icmp_is_error(__u8 family, __u8 type)
{
	if (family == 4)
		return type == ICMPV4_UNREACHABLE || type == ICMPV4_TIME_EXCEEDED ||
		       type == ICMPV4_PARAMETER_PROBLEM;
	return type >= ICMPV6_UNREACHABLE && type <= ICMPV6_PARAMETER;
}

static __always_inline int quote_v4(struct xdp_md *context, struct packet *quote)
{
	const struct iphdr *ip = at(context, quote->network, sizeof(*ip));

	if (!ip || ip->version != 4 || ip->ihl < sizeof(*ip) / 4 ||
	    ip->frag_off & bpf_htons(IPV4_OFFSET))
		return 0;
	map_address(&quote->key.source, ip->daddr);
	map_address(&quote->key.destination, ip->saddr);
	quote->key.protocol = ip->protocol;
	quote->length = bpf_ntohs(ip->tot_len);
	quote->transport = quote->network + ip->ihl * 4;
	return 1;
}

static __always_inline int quote_v6(struct xdp_md *context, struct packet *quote)
{
	const struct ipv6hdr *ip = at(context, quote->network, sizeof(*ip));

	if (!ip || ip->version != 6)
		return 0;
	__builtin_memcpy(&quote->key.source, &ip->daddr, sizeof(quote->key.source));
	__builtin_memcpy(&quote->key.destination, &ip->saddr, sizeof(quote->key.source));
	quote->key.protocol = ip->nexthdr;
	quote->length = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	quote->transport = quote->network + sizeof(*ip);
	return is_transport(quote->key.protocol) ||
	       (parse_extension_headers(context, quote) == UNDECIDED &&
		quote->fragment != LATER_FRAGMENT);
}

/* A quoted packet of a flow at `quote->network`: its key is turned round. */
static __always_inline int quote_flow(struct xdp_md *context, const struct packet *packet,
				      struct packet *quote)
{
	const __be16 *ports;

	if (!(quote->family == 4 ? quote_v4(context, quote) : quote_v6(context, quote)))
		return 0;
	if (quote->key.protocol != IPPROTO_TCP && quote->key.protocol != IPPROTO_UDP)
		return 0;
	ports = at(context, quote->transport, QUOTED_TRANSPORT);
	if (!ports || quote->transport + QUOTED_TRANSPORT > packet->network + packet->length)
		return 0;
	quote->key.source_port = ports[1];
	quote->key.destination_port = ports[0];
	return 1;
}

/*
 * Reads what an error quotes: its key is a packet in the direction in which the error goes on.
 * False if that cannot be a packet of a flow, or if the error went to somebody who did not send it.
 */
__noinline int icmp_quote(struct xdp_md *context, struct packet *packet)
{
	struct scratch *here = scratch_here();

	if (!packet || !here)
		return 0;
	__builtin_memset(&here->quote, 0, sizeof(here->quote));
	here->quote.family = packet->family;
	here->quote.network = packet->transport + sizeof(struct icmp_error);
	return quote_flow(context, packet, &here->quote) &&
	       same_address(&packet->key.destination, &here->quote.key.destination);
}

/* Writes the addresses of the IP header at `network`, and the checksum of an IPv4 one. */
static __always_inline int addresses_write(struct xdp_md *context, __u8 family, __u32 network,
					   const struct address *source,
					   const struct address *destination, __u64 difference)
{
	struct ipv6hdr *v6;
	struct iphdr *v4;

	if (family == 4) {
		v4 = at(context, network, sizeof(*v4));
		if (!v4)
			return 0;
		v4->saddr = source->words[3];
		v4->daddr = destination->words[3];
		v4->check = checksum_update(v4->check, difference);
		return 1;
	}
	v6 = at(context, network, sizeof(*v6));
	if (!v6)
		return 0;
	__builtin_memcpy(&v6->saddr, source, sizeof(*source));
	__builtin_memcpy(&v6->daddr, destination, sizeof(*destination));
	return 1;
}

/*
 * Translates the checksum of the quoted transport, if the quote reaches it. Returns what that adds
 * to the checksum of the ICMP message. UDP without a checksum (0) stays so (RFC 768).
 */
static __always_inline __u64 quoted_checksum(struct xdp_md *context, const struct packet *packet,
					     const struct packet *quote, __u64 difference)
{
	int udp = quote->key.protocol == IPPROTO_UDP;
	__u32 offset = quote->transport + (udp ? CHECKSUM_UDP : CHECKSUM_TCP);
	__u16 *check = at(context, offset, sizeof(*check));
	__u16 old, new;

	if (!check || offset + sizeof(*check) > packet->network + packet->length)
		return 0;
	old = *check;
	new = udp ? checksum_update_udp(old, difference) : checksum_update(old, difference);
	*check = new;
	return difference16(old, new);
}

/* How the sums change. */
struct differences {
	__u64 inside; /* by the quoted addresses */
	__u64 ports;  /* by the quoted ports */
	__u64 whole;  /* by the outer addresses */
};

static __always_inline void differences_of(const struct packet *packet, const struct scratch *here,
					   const struct address *source,
					   struct differences *differences)
{
	const struct flow_key *key = &here->quote.key, *after = &here->after;

	differences->inside = difference_address(&key->source, &after->source) +
			      difference_address(&key->destination, &after->destination);
	differences->ports = difference16(key->source_port, after->source_port) +
			     difference16(key->destination_port, after->destination_port);
	differences->whole = difference_address(&packet->key.source, source) +
			     difference_address(&packet->key.destination, &after->destination);
}

/* Translates the quoted ports and checksum, and the checksum of the message. */
static __always_inline int message_write(struct xdp_md *context, const struct packet *packet,
					 const struct scratch *here,
					 const struct differences *differences)
{
	__u64 message = differences->ports;
	struct icmp_error *error;
	__be16 *quoted = at(context, here->quote.transport, 2 * sizeof(*quoted));

	if (!quoted)
		return 0;
	quoted[0] = here->after.destination_port;
	quoted[1] = here->after.source_port;
	message += quoted_checksum(context, packet, &here->quote,
				   differences->inside + differences->ports);
	/* The sum of an IPv4 header is always the same; that of IPv6 has changed by its addresses,
	 * within the message and in the pseudo-header. */
	if (packet->family == 6)
		message += differences->inside + differences->whole;
	error = at(context, packet->transport, sizeof(*error));
	if (!error)
		return 0;
	error->checksum = checksum_update(error->checksum, message);
	return 1;
}

/*
 * Translates an error that belongs to a flow. The outer addresses are those with which packets of
 * the flow are sent if `outer`, else only its destination, and its source where the sender is the
 * end of the flow itself.
 */
__noinline int icmp_translate(struct xdp_md *context, struct packet *packet, __u32 outer)
{
	struct scratch *here = scratch_here();
	struct differences differences;
	struct address source;

	if (!packet || !here)
		return 0;
	source = packet->key.source;
	if (outer || same_address(&source, &here->quote.key.source))
		source = here->after.source;
	differences_of(packet, here, &source, &differences);
	return message_write(context, packet, here, &differences) &&
	       addresses_write(context, packet->family, here->quote.network,
			       &here->after.destination, &here->after.source,
			       differences.inside) &&
	       addresses_write(context, packet->family, packet->network, &source,
			       &here->after.destination, differences.whole);
}

#endif
