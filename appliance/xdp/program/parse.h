/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * From bytes to a `struct packet`: Ethernet with up to two tags, IPv4 with options, IPv6 with a
 * bounded chain of extension headers, TCP, UDP and ICMP. A length that contradicts the frame or
 * another length is malformed, as it is for the kernel; what is only unknown is not.
 */
#ifndef HAFLINGER_PARSE_H
#define HAFLINGER_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>

#include "packet.h"

#define TAGS_MAX 2

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define IPV4_DF 0x4000
#define IPV4_MF 0x2000
#define IPV4_OFFSET 0x1fff

struct vlan_header {
	__be16 control;
	__be16 protocol;
};

/* Hop-by-hop, routing and destination options begin alike (RFC 8200, section 4). */
struct extension_header {
	__u8 next;
	__u8 length; /* in 8 bytes, without the first 8 */
	__u8 routing_type;
	__u8 segments_left;
	__be32 rest;
};

static __always_inline int malformed(struct packet *packet)
{
	return decided(packet, REASON_MALFORMED, XDP_DROP);
}

static __always_inline int not_understood(struct packet *packet)
{
	return decided(packet, REASON_NOT_UNDERSTOOD, XDP_PASS);
}

static __always_inline void map_address(struct address *address, __be32 v4)
{
	address->halves[0] = 0;
	address->words[2] = bpf_htonl(0xffff);
	address->words[3] = v4;
}

static __always_inline int fits(struct xdp_md *context, const struct packet *packet)
{
	return packet->network + packet->length <= context->data_end - context->data;
}

static __always_inline int parse_ipv4(struct xdp_md *context, struct packet *packet)
{
	struct iphdr *ip = at(context, packet->network, sizeof(*ip));
	__u16 fragment, header;

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return malformed(packet);
	header = ip->ihl * 4;
	packet->length = bpf_ntohs(ip->tot_len);
	if (packet->length < header || !fits(context, packet))
		return malformed(packet);
	packet->family = 4;
	packet->transport = packet->network + header;
	packet->ttl = ip->ttl;
	packet->traffic_class = ip->tos;
	packet->key.protocol = ip->protocol;
	map_address(&packet->key.source, ip->saddr);
	map_address(&packet->key.destination, ip->daddr);
	fragment = bpf_ntohs(ip->frag_off);
	packet->unfragmentable = fragment & IPV4_DF ? 1 : 0;
	if (fragment & (IPV4_MF | IPV4_OFFSET)) {
		packet->fragment = fragment & IPV4_OFFSET ? LATER_FRAGMENT : FIRST_FRAGMENT;
		packet->identification = ip->id;
	}
	return UNDECIDED;
}

static __always_inline int is_transport(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_ICMPV6;
}

/* One extension header: 1 when the chain goes on, otherwise as a verdict. */
static __always_inline int extension_header(struct xdp_md *context, struct packet *packet)
{
	struct extension_header *header = at(context, packet->transport, sizeof(*header));

	if (!header)
		return malformed(packet);
	switch (packet->key.protocol) {
	case IPPROTO_ROUTING:
		if (header->segments_left) /* the destination is not the last */
			return not_understood(packet);
		/* fall through */
	case IPPROTO_HOPOPTS:
	case IPPROTO_DSTOPTS:
		packet->key.protocol = header->next;
		packet->transport += header->length * 8 + 8;
		return 1;
	case IPPROTO_FRAGMENT: {
		struct fragment_header *fragment = (void *)header;
		__u16 offset = bpf_ntohs(fragment->offset);

		packet->fragment_header = packet->transport;
		packet->key.protocol = header->next;
		packet->transport += sizeof(*fragment);
		if (!(offset & 0xfff9)) /* an atomic fragment is a whole packet, RFC 6946 */
			return 1;
		packet->identification = fragment->identification;
		packet->fragment = offset & 0xfff8 ? LATER_FRAGMENT : FIRST_FRAGMENT;
		return packet->fragment == LATER_FRAGMENT ? UNDECIDED : 1;
	}
	default:
		return not_understood(packet);
	}
}

/* Away from the usual path, and verified once by itself. */
__noinline int parse_extension_headers(struct xdp_md *context, struct packet *packet)
{
	int i, result;

	if (!packet)
		return XDP_DROP;
	for (i = 0; i < EXTENSIONS_MAX; i++) {
		result = extension_header(context, packet);
		if (result != 1)
			return result;
		if (is_transport(packet->key.protocol))
			return UNDECIDED;
	}
	return not_understood(packet);
}

static __always_inline int parse_ipv6(struct xdp_md *context, struct packet *packet)
{
	struct ipv6hdr *ip = at(context, packet->network, sizeof(*ip));

	if (!ip || ip->version != 6)
		return malformed(packet);
	if (!ip->payload_len) /* nothing in it, or a jumbogram (RFC 2675) */
		return not_understood(packet);
	packet->flow_information = *(__be32 *)ip & bpf_htonl(0x0fffffff);
	packet->traffic_class = bpf_ntohl(packet->flow_information) >> 20;
	packet->ttl = ip->hop_limit;
	__builtin_memcpy(&packet->key.source, &ip->saddr, sizeof(struct address));
	__builtin_memcpy(&packet->key.destination, &ip->daddr, sizeof(struct address));
	packet->key.protocol = ip->nexthdr;
	packet->family = 6;
	packet->unfragmentable = 1;
	packet->transport = packet->network + sizeof(*ip);
	/* In 32 bits: the sum of the largest payload and the header does not fit 16. */
	if (packet->network + sizeof(*ip) + bpf_ntohs(ip->payload_len) >
	    context->data_end - context->data)
		return malformed(packet);
	packet->length = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (is_transport(packet->key.protocol))
		return UNDECIDED;
	return parse_extension_headers(context, packet);
}

/* Whether `size` bytes of the transport layer are within what the network layer says. */
static __always_inline int within(const struct packet *packet, __u32 size)
{
	return packet->transport + size <= (__u32)packet->network + packet->length;
}

static __always_inline int parse_tcp(struct xdp_md *context, struct packet *packet)
{
	struct tcphdr *tcp = at(context, packet->transport, sizeof(*tcp));

	if (!tcp || tcp->doff < 5 || !within(packet, tcp->doff * 4))
		return malformed(packet);
	packet->key.source_port = tcp->source;
	packet->key.destination_port = tcp->dest;
	packet->tcp_flags = ((__u8 *)tcp)[13];
	return UNDECIDED;
}

static __always_inline int parse_udp(struct xdp_md *context, struct packet *packet)
{
	struct udphdr *udp = at(context, packet->transport, sizeof(*udp));
	__u16 length;

	if (!udp || !within(packet, sizeof(*udp)))
		return malformed(packet);
	length = bpf_ntohs(udp->len);
	if (packet->fragment == WHOLE && (length < sizeof(*udp) || !within(packet, length)))
		return malformed(packet);
	packet->key.source_port = udp->source;
	packet->key.destination_port = udp->dest;
	return UNDECIDED;
}

static __always_inline int parse_transport(struct xdp_md *context, struct packet *packet)
{
	if (packet->fragment == LATER_FRAGMENT)
		return UNDECIDED;
	switch (packet->key.protocol) {
	case IPPROTO_TCP:
		return parse_tcp(context, packet);
	case IPPROTO_UDP:
		return parse_udp(context, packet);
	case IPPROTO_ICMP:
		return packet->family == 4 ? UNDECIDED : not_understood(packet);
	case IPPROTO_ICMPV6:
		return packet->family == 6 ? UNDECIDED : not_understood(packet);
	default:
		return not_understood(packet);
	}
}

/* The protocol behind the tags; `network` becomes the offset of what it names. */
static __always_inline int parse_link(struct xdp_md *context, struct packet *packet,
				      __be16 *protocol)
{
	struct ethhdr *ethernet = at(context, 0, sizeof(*ethernet));
	int i;

	if (!ethernet)
		return malformed(packet);
	*protocol = ethernet->h_proto;
	packet->network = sizeof(*ethernet);
#pragma unroll
	for (i = 0; i < TAGS_MAX; i++) {
		struct vlan_header *tag;

		if (*protocol != bpf_htons(ETH_P_8021Q) && *protocol != bpf_htons(ETH_P_8021AD))
			break;
		tag = at(context, packet->network, sizeof(*tag));
		if (!tag)
			return malformed(packet);
		*protocol = tag->protocol;
		packet->network += sizeof(*tag);
	}
	return UNDECIDED;
}

static __always_inline int parse(struct xdp_md *context, struct packet *packet)
{
	__be16 protocol;
	int verdict = parse_link(context, packet, &protocol);

	if (verdict != UNDECIDED)
		return verdict;
	if (protocol == bpf_htons(ETH_P_IP))
		verdict = parse_ipv4(context, packet);
	else if (protocol == bpf_htons(ETH_P_IPV6))
		verdict = parse_ipv6(context, packet);
	else
		return decided(packet, REASON_NOT_IP, XDP_PASS);
	if (verdict == UNDECIDED)
		verdict = parse_transport(context, packet);
	if (verdict == UNDECIDED)
		packet->stages = STAGE_PARSED;
	return verdict;
}

#endif
