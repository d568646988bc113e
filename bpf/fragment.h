// Ports of fragments: only the first one of a packet has them.
//
// A sender's stack sends the first one first, so the programs next to a pod see it first. Where the way from outside
// has changed the order, the fragments that overtake the first one are unknown: they pass untouched and the packet is
// lost, as its receiver never gets them all.
#pragma once
#include "packet.h"

// Keeps the ports of a first fragment, or finds those of a later one for p->key. -1: unknown.
static __always_inline int fragment_ports(struct packet *p)
{
	struct fragment_key key = {
		.src = p->key.src,
		.dst = p->key.dst,
		.id = p->fragment_id,
		.proto = p->key.proto,
	};

	if (p->fragment == FRAGMENT_FIRST) {
		struct ports first = {.sport = p->key.sport, .dport = p->key.dport};

		return bpf_map_update_elem(&fragments, &key, &first, BPF_ANY) ? -1 : 0;
	}
	struct ports *first = bpf_map_lookup_elem(&fragments, &key);

	if (!first)
		return -1;
	p->key.sport = first->sport;
	p->key.dport = first->dport;
	return 0;
}
