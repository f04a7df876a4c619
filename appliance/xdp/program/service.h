/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Services: which one a packet is for, and whether it serves this client.
 */
#ifndef HAFLINGER_SERVICE_H
#define HAFLINGER_SERVICE_H

#include "flow.h"

/* The service that a packet is addressed to; `packet->service` is its slot. */
static __always_inline struct service *find_service(struct packet *packet)
{
	struct service_key key = {};
	struct service *service;
	const __u32 *slot;

	key.vip = packet->key.destination;
	key.port = packet->key.destination_port;
	key.protocol = packet->key.protocol;
	slot = bpf_map_lookup_elem(&service_index, &key);
	if (!slot)
		return NULL;
	packet->service = *(volatile __u32 *)slot;
	service = ELEMENT(services, packet->service);
	if (!service || !same_address(&service->key.vip, &key.vip) ||
	    service->key.port != key.port || service->key.protocol != key.protocol)
		return NULL;
	packet->stages |= STAGE_SERVICE_FOUND;
	return service;
}

static __always_inline int within_ranges(const struct packet *packet,
					 const struct service *service)
{
	struct range_key key = {};

	if (!service->ranged)
		return 1;
	key.prefix_length = 8 * (sizeof(key) - sizeof(key.prefix_length));
	key.service = packet->service;
	key.client = packet->key.source;
	return bpf_map_lookup_elem(&source_ranges, &key) != NULL;
}

#endif
