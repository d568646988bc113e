// Services for macvlan and ipvlan pods, which have no pair: on their own devices.
#pragma once
#include "translate.h"

// Ingress of a macvlan or ipvlan pod's own device.
SEC("tc")
int pod_ingress(struct __sk_buff *ctx)
{
	return arrive(ctx);
}

// The pod itself, as its own routes see it.
enum { LO = 1 };

// Sends a packet by the pod's route to its new destination, which may lead through another device.
static __always_inline int reroute(struct __sk_buff *ctx, const struct packet *p, const struct flow_key *t)
{
	struct bpf_fib_lookup route = {
		.family = p->v6 ? AF_INET6 : AF_INET,
		.l4_protocol = p->key.proto,
		.ifindex = LO, // whose packets the pod may forward: the kernel asks for that
	};
	struct ethhdr eth = {.h_proto = ctx->protocol};

	if (p->v6) {
		memcpy(route.ipv6_src, &t->src, 16);
		memcpy(route.ipv6_dst, &t->dst, 16);
	} else {
		route.ipv4_src = t->src.word[3];
		route.ipv4_dst = t->dst.word[3];
	}
	if (bpf_fib_lookup(ctx, &route, sizeof(route), 0) != BPF_FIB_LKUP_RET_SUCCESS || route.ifindex == ctx->ifindex)
		return PASS;
	memcpy(eth.h_dest, route.dmac, 6);
	memcpy(eth.h_source, route.smac, 6);
	if (bpf_skb_store_bytes(ctx, 0, &eth, 12, 0))
		return TC_ACT_SHOT;
	return bpf_redirect(route.ifindex, 0);
}

// Egress of a macvlan or ipvlan pod's own device.
SEC("tc")
int pod_egress(struct __sk_buff *ctx)
{
	struct endpoint *own, *to;
	struct packet p = {};
	struct flow_key t;
	__u8 kind = 0;

	if (parse(ctx, &p) != PARSED)
		return PASS;
	if (is_icmp_error(&p)) {
		if (endpoint_of(&p.key.dst))
			return PASS; // to a client of this node, where it is translated
		t = p.key;
		int known = icmp_error(ctx, &p, 0);

		if (known < 0)
			return drop(ctx, COUNT_INVALID);
		if (!known)
			return PASS;
		kind = known;
		t.dst = p.key.dst;
	} else {
		if (!has_ports(&p))
			return PASS;
		// Most of what leaves here is for neighbours, and shall cost next to nothing.
		switch (translate_to_service(ctx, &p, 0, &t, &kind)) {
		case LEFT:
			return may_begin(&p) && forget(&p) ? refuse_taken(ctx, &p, BPF_F_INGRESS) : PASS;
		case REFUSED:
			count(ctx, COUNT_NO_BACKEND);
			return refuse(ctx, &p, BPF_F_INGRESS);
		case NO_ROOM:
			return drop(ctx, COUNT_NO_ROOM);
		case BROKEN:
			return drop(ctx, COUNT_INVALID);
		}
	}
	count(ctx, COUNT_TRANSLATED);
	if (kind == HAIRPIN_FORWARD || kind == HAIRPIN_REVERSE)
		return turn(ctx, BPF_F_INGRESS);
	// The frame is for the gateway, which leads to all pods. The neighbours can be reached without it.
	own = endpoint_of(&p.key.src);
	to = endpoint_of(&t.dst);
	if (!own || !to)
		return PASS;
	if (own->attach == to->attach && own->ifindex == to->ifindex) {
		if (own->attach == MACVLAN)
			bpf_skb_store_bytes(ctx, 0, to->mac, 6, 0);
		return PASS; // ipvlan goes by addresses
	}
	return own->attach == IPVLAN_L3 ? reroute(ctx, &p, &t) : PASS;
}
