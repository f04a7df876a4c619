/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Fragments. Only the first has ports: it is decided like any packet, and what it carries is
 * remembered under its datagram's identification, so that the later ones get their ports back and
 * find the same flow. The rules:
 *
 * - A later fragment whose first has not been seen, or was seen longer than FRAGMENT_SECONDS ago,
 *   goes to the kernel: it may belong to a socket of this host, and nothing here says otherwise.
 *   So one that overtakes its first is lost to its flow, and counted.
 * - A first fragment without the whole fixed header of its transport is dropped, and so is a later
 *   one of TCP that begins within that header (RFC 1858, RFC 3128) or ends past the largest
 *   datagram. Other overlaps are the receiver's to refuse (RFC 5722).
 * - Whose source address is rewritten is sent with a fresh identification: the receiver would
 *   else put together what two clients, or two backends, sent under the same one.
 *
 * Never reassembles and never waits.
 */
#ifndef HAFLINGER_FRAGMENT_H
#define HAFLINGER_FRAGMENT_H

#include "checksum.h"
#include "packet.h"
#include "parse.h"

/* As long as receivers wait for the rest (Linux: 30 s); an older entry is of another datagram. */
#define FRAGMENT_SECONDS 30

#define DATAGRAM_MAX 65535

static __always_inline void fragment_key_of(const struct packet *packet, struct fragment_key *key)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = packet->key.source;
	key->destination = packet->key.destination;
	key->identification = packet->identification;
	if (packet->family == 4) /* no part of it in IPv6 (RFC 8200, section 4.5) */
		key->protocol = packet->key.protocol;
}

/* Bytes of the datagram before this fragment. */
static __always_inline __u32 fragment_offset(struct xdp_md *context, const struct packet *packet)
{
	const struct fragment_header *header;
	const struct iphdr *ip;

	if (packet->family == 4) {
		ip = at(context, packet->network, sizeof(*ip));
		return ip ? (bpf_ntohs(ip->frag_off) & IPV4_OFFSET) * 8 : 0;
	}
	header = at(context, packet->fragment_header, sizeof(*header));
	return header ? bpf_ntohs(header->offset) & 0xfff8 : 0;
}

/* Of IPv4: the 16 bits at the front. */
static __always_inline __be16 identification_v4(__be32 identification)
{
	return bpf_htons(bpf_ntohl(identification) >> 16);
}

/* A number that no datagram of ours had for as long as can be. IPv6: RFC 7739, section 5.3. */
static __always_inline __be32 fragment_identification(__u8 family)
{
	__u32 zero = 0;
	__u32 *next;

	if (family == 6)
		return bpf_get_prandom_u32();
	next = bpf_map_lookup_elem(&identifications, &zero);
	return next ? bpf_htonl(__sync_fetch_and_add(next, 1) << 16) : 0;
}

/*
 * Remembers a first fragment whose flow is known, and gives it the identification that its
 * datagram is sent with: the same if it is repeated.
 */
__noinline int fragment_remember(struct packet *packet)
{
	struct fragment fragment = {};
	const struct fragment *known;
	struct fragment_key key;

	if (!packet)
		return 0;
	fragment_key_of(packet, &key);
	fragment.source_port = packet->key.source_port;
	fragment.destination_port = packet->key.destination_port;
	fragment.protocol = packet->key.protocol;
	fragment.seen = packet->now;
	known = bpf_map_lookup_elem(&fragments, &key);
	if (known && packet->now - known->seen < FRAGMENT_SECONDS &&
	    known->source_port == fragment.source_port &&
	    known->destination_port == fragment.destination_port)
		fragment.identification = known->identification;
	else
		fragment.identification = fragment_identification(packet->family);
	packet->identification = fragment.identification;
	bpf_map_update_elem(&fragments, &key, &fragment, BPF_ANY);
	return 1;
}

/*
 * Gives a later fragment what only its first has, the ports, and the identification that it is
 * sent with. Then it is a packet of its flow, but for its transport header, which it lacks.
 */
__noinline int fragment_recall(struct xdp_md *context, struct packet *packet)
{
	const struct fragment *known;
	struct fragment_key key;
	__u32 offset, payload;

	if (!packet)
		return XDP_DROP;
	fragment_key_of(packet, &key);
	known = bpf_map_lookup_elem(&fragments, &key);
	if (!known || packet->now - known->seen >= FRAGMENT_SECONDS)
		return decided(packet, REASON_FRAGMENT_UNKNOWN, XDP_PASS);
	offset = fragment_offset(context, packet);
	payload = packet->length - (packet->transport - packet->network);
	if ((known->protocol == IPPROTO_TCP && offset < sizeof(struct tcphdr)) ||
	    offset + payload > DATAGRAM_MAX)
		return decided(packet, REASON_MALFORMED, XDP_DROP);
	packet->key.protocol = known->protocol;
	packet->key.source_port = known->source_port;
	packet->key.destination_port = known->destination_port;
	packet->identification = known->identification;
	return UNDECIDED;
}

/* Writes the identification that the fragment is sent with. No checksum of IPv6 covers it. */
__noinline int fragment_rename(struct xdp_md *context, struct packet *packet)
{
	struct fragment_header *header;
	struct iphdr *ip;
	__be16 fresh;

	if (!packet)
		return 0;
	if (packet->family == 4) {
		ip = at(context, packet->network, sizeof(*ip));
		if (!ip)
			return 0;
		fresh = identification_v4(packet->identification);
		ip->check = checksum_update(ip->check, difference16(ip->id, fresh));
		ip->id = fresh;
		return 1;
	}
	header = at(context, packet->fragment_header, sizeof(*header));
	if (!header)
		return 0;
	header->identification = packet->identification;
	return 1;
}

#endif
