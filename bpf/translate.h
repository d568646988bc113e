// Packets of services: what a pod sends to one, and what comes to a pod from one.
#pragma once
#include "flow.h"
#include "forward.h"
#include "fragment.h"
#include "refuse.h"

// A setting of the node, as those in forward.h. 1: translate the flows that there are, and begin no other. Somebody
// else leads new clients to backends; those who came before keep theirs.
const volatile __u32 drain;

static __always_inline int has_ports(struct packet *p)
{
	if (p->key.proto != IPPROTO_TCP && p->key.proto != IPPROTO_UDP)
		return 0;
	return p->fragment == FRAGMENT_NONE || !fragment_ports(p);
}

// Whether a packet of a flow that is known has to start anew: its time is over, or a client uses a port again. A SYN
// that wasn't answered starts anew too: its backend may have gone.
static __always_inline int starts_anew(const struct packet *p, const struct flow *f, __u32 now)
{
	if (is_over(p->key.proto, f, now))
		return 1;
	return is_syn(p) && (is_closing(f->state) || (__s32)(now - f->seen) > SYN_AGAIN);
}

// Translates what a pod sends to a service, and what it answers to itself. A segment of a connection that no flow is
// known of goes to a service only if all are looked up: there it may have begun before the programs ran.
static __always_inline int translate_to_service(struct __sk_buff *ctx, struct packet *p, int all, struct flow_key *t,
						__u8 *kind)
{
	struct flow *f = 0;
	int begun;

	if (is_marked(&p->key.dst, p->key.dport) || is_marked(&p->key.src, p->key.sport))
		f = bpf_map_lookup_elem(&flows, &p->key);
	else if (!all && p->key.proto == IPPROTO_TCP && !is_syn(p))
		return LEFT;
	if (f && f->kind >= MASQUERADE)
		f = 0; // from before the service, at the uplink
	if (f) {
		__u32 now = now_s();

		if (f->kind == REVERSE)
			return LEFT;
		if (!starts_anew(p, f, now)) {
			*kind = f->kind;
			translated(&p->key, f, t);
			// Else a client that asks in vain would keep a dead backend by asking.
			if (!is_syn(p))
				track(p, f, t, now);
			return rewrite(ctx, p, t, *kind) ? BROKEN : TRANSLATED;
		}
	}
	if (drain)
		return LEFT;
	begun = begin(p, f, t, kind);
	if (begun == TRANSLATED && rewrite(ctx, p, t, *kind))
		return BROKEN;
	return begun;
}

// Translates what a backend answers to a client. t is what the packet becomes.
static __always_inline int translate_answer(struct __sk_buff *ctx, struct packet *p, struct flow_key *t)
{
	struct flow *f;
	__u32 now;

	if (!is_marked(&p->key.src, p->key.sport))
		return LEFT;
	f = bpf_map_lookup_elem(&flows, &p->key);
	if (!f || f->kind != REVERSE)
		return LEFT;
	now = now_s();
	if (is_over(p->key.proto, f, now))
		return LEFT;
	if (is_closing(f->state) || f->state & DISPUTED) {
		// To the client that turned to the backend itself, seen or not: a flow that begins anew has no such
		// state.
		if (has_flags(p, TCP_SYN | TCP_ACK)) {
			forget_flow(&p->key, f);
			return LEFT;
		}
		// Likewise, and mostly from refuse_taken().
		if (f->state & DISPUTED && has_flags(p, TCP_RST | TCP_ACK)) {
			f->state &= ~DISPUTED;
			return LEFT;
		}
	}
	translated(&p->key, f, t);
	track(p, f, t, now);
	return rewrite(ctx, p, t, REVERSE) ? BROKEN : TRANSLATED;
}

// Whether a packet may be the first one of its socket to this destination.
static __always_inline int may_begin(const struct packet *p)
{
	return p->key.proto == IPPROTO_UDP || is_syn(p);
}

// A client that turns to a pod itself may use a port that it had for a service with the same backend: what is known
// of that has to go, or the answers would be translated. Nothing says that a UDP flow is over but what the client asks
// now; unless it answers, and is a backend of its own backend.
//
// A TCP flow that isn't closed is the backend's to judge. It takes the new connection if it has lost the other one; if
// not, it answers the other one's client, and nobody the new one's. So a SYN that comes again is to be refused: 1. Its
// client learns at once, and asks by another port.
static __noinline int forget(const struct packet *p)
{
	struct flow_key answer;
	struct flow *f;

	if (!is_marked(&p->key.dst, p->key.dport))
		return 0;
	answer_to(&p->key, &answer);
	f = bpf_map_lookup_elem(&flows, &answer);
	if (!f || f->kind != REVERSE)
		return 0;
	if (p->key.proto == IPPROTO_UDP) {
		if (!bpf_map_lookup_elem(&flows, &p->key))
			forget_flow(&answer, f);
	} else if (is_closing(f->state) || is_over(p->key.proto, f, now_s())) {
		forget_flow(&answer, f);
	} else if (f->state & DISPUTED) {
		return 1;
	} else {
		f->state |= DISPUTED;
	}
	return 0;
}

// Refuses a connection by a port that is another one's, as refuse() does.
static __always_inline int refuse_taken(struct __sk_buff *ctx, const struct packet *p, __u64 flags)
{
	count(ctx, COUNT_NO_ROOM);
	return reset(ctx, p) ? TC_ACT_SHOT : bpf_redirect(ctx->ifindex, flags);
}

// Sends a packet back through the device, to who sent it.
static __noinline int turn(struct __sk_buff *ctx, __u64 flags)
{
	struct ethhdr eth;
	__u8 mac[6];

	if (bpf_skb_load_bytes(ctx, 0, &eth, sizeof(eth)))
		return TC_ACT_SHOT;
	memcpy(mac, eth.h_source, 6);
	memcpy(eth.h_source, eth.h_dest, 6);
	memcpy(eth.h_dest, mac, 6);
	if (bpf_skb_store_bytes(ctx, 0, &eth, 12, 0))
		return TC_ACT_SHOT;
	return bpf_redirect(ctx->ifindex, flags);
}

static __always_inline struct endpoint *endpoint_of(const struct address *a)
{
	return bpf_map_lookup_elem(&endpoints, a);
}

// Gives what is for a pod the name of who was asked: an answer's source, or what an error quotes.
static __always_inline int name(struct __sk_buff *ctx, struct packet *p)
{
	struct flow_key t;

	if (is_icmp_error(p)) {
		int kind = icmp_error(ctx, p, 0);

		if (kind < 0)
			return drop(ctx, COUNT_INVALID);
		if (kind)
			count(ctx, COUNT_TRANSLATED);
		return PASS;
	}
	if (!has_ports(p))
		return PASS;
	switch (translate_answer(ctx, p, &t)) {
	case BROKEN:
		return drop(ctx, COUNT_INVALID);
	case TRANSLATED:
		count(ctx, COUNT_TRANSLATED);
	}
	return PASS;
}

// What comes to a pod through the stack, its bridge or its uplink.
static __always_inline int arrive(struct __sk_buff *ctx)
{
	struct packet p = {};

	return parse(ctx, &p) == PARSED ? name(ctx, &p) : PASS;
}
