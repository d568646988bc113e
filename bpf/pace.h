// Limits of what pods send: each packet is told when it may leave (its earliest departure time), and qdisc fq of the
// uplink keeps it until then.
#pragma once
#include "packet.h"

// A setting of the node. 1: what pods with an entry in `paces` send gets departure times.
const volatile __u32 pace;

// How long packets wait at most, and how much of them at most where that would be less than senders need to get the
// rate: what would leave later is dropped, so that they notice. Whatever passes has to fit into fq (package qdisc says
// how much that holds): a packet that fq drops has taken its time from the pod.
enum {
	WAIT = 100000000,     // ns
	ROOM = 512 << 10,     // bytes
	HORIZON = 2000000000, // ns: never longer, neither for a limit nor because a socket asks for it
	NS_PER_S = 1000000000,
};

static __always_inline __u64 patience(__u64 rate)
{
	__u64 ns = (__u64)ROOM * 8 * NS_PER_S / rate;

	if (ns < WAIT)
		return WAIT;
	return ns < HORIZON ? ns : HORIZON;
}

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
	__u64 now, wanted, at, takes, rate, most;
	struct address from = {};
	struct pace *p;
	int late;

	source_of(ctx, &from);
	p = bpf_map_lookup_elem(&paces, &from);
	if (p && !p->rate) {
		from = p->with;
		p = bpf_map_lookup_elem(&paces, &from);
	}
	if (!p)
		return PASS;
	rate = p->rate;
	if (!rate)
		return PASS;
	takes = (__u64)ctx->wire_len * 8 * NS_PER_S / rate;
	most = patience(rate);
	now = bpf_ktime_get_ns();
	wanted = ctx->tstamp;
	if (wanted > now + HORIZON) // by another clock, or to keep us busy
		wanted = now;
	bpf_spin_lock(&p->lock);
	at = p->next;
	if (at < now)
		at = now;
	late = at > now + most;
	if (!late)
		p->next = at + takes;
	bpf_spin_unlock(&p->lock);
	if (late)
		return drop(ctx, COUNT_TOO_FAST);
	ctx->tstamp = at < wanted ? wanted : at;
	return PASS;
}
