// Limits of what pods send: each packet is told when it may leave (its earliest departure time), and qdisc fq of the
// uplink keeps it until then.
#pragma once
#include "packet.h"

// A setting of the node. 1: what pods with an entry in `paces` send gets departure times.
const volatile __u32 pace;

enum {
	HORIZON = 2000000000, // ns: what would leave later is dropped, so that senders notice
	NS_PER_S = 1000000000,
};

// The sender's address; nobody's where it isn't known. The programs before us have looked no further than this one.
static __always_inline void source_of(struct __sk_buff *ctx, struct address *a)
{
	switch (ctx->protocol) {
	case bpf_htons(ETH_P_IP): {
		__be32 addr = 0;

		bpf_skb_load_bytes(ctx, L3 + offsetof(struct iphdr, saddr), &addr, sizeof(addr));
		ipv4(a, addr);
		return;
	}
	case bpf_htons(ETH_P_IPV6):
		bpf_skb_load_bytes(ctx, L3 + offsetof(struct ipv6hdr, saddr), a, sizeof(*a));
	}
}

// Gives a packet of a pod its time. What all of its sockets send goes through one gate, which opens again when the
// packet has had its time at the pod's rate; a socket that spaces its packets itself may ask for later, which the
// others don't wait for. Lengths are those of the frames that will be on the wire.
static __always_inline int pace_pod(struct __sk_buff *ctx)
{
	__u64 now, wanted, at, takes;
	struct address from = {};
	struct pace *p;
	int late;

	source_of(ctx, &from);
	p = bpf_map_lookup_elem(&paces, &from);
	if (p && !p->rate) {
		from = p->with;
		p = bpf_map_lookup_elem(&paces, &from);
	}
	if (!p || !p->rate)
		return PASS;
	takes = (__u64)ctx->wire_len * 8 * NS_PER_S / p->rate;
	now = bpf_ktime_get_ns();
	wanted = ctx->tstamp;
	if (wanted > now + HORIZON) // by another clock, or to keep us busy
		wanted = now;
	bpf_spin_lock(&p->lock);
	at = p->next;
	if (at < now)
		at = now;
	late = at > now + HORIZON;
	if (!late)
		p->next = at + takes;
	bpf_spin_unlock(&p->lock);
	if (late)
		return drop(ctx, COUNT_TOO_FAST);
	ctx->tstamp = at < wanted ? wanted : at;
	return PASS;
}
