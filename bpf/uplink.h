// What goes through a node's uplinks, and through the detours of ipvlan-l3 pods.
#pragma once
#include "route.h"
#ifndef NO_SERVICES
#include "masquerade.h"
#endif
#include "pace.h"

// What goes through an uplink, either way, from one of the MACs of our pods.
static __noinline int check_child(struct __sk_buff *ctx)
{
	struct packet p = {};
	__u8 mac[8] __attribute__((aligned(8))) = {};
	struct sender sender = {.ifindex = ctx->ifindex, .mac = mac};
	enum parsed parsed;
	struct endpoint *own = 0;
	__u32 *uplink;

	// Our MACs are locally administered.
	if (!source_check || bpf_skb_load_bytes(ctx, 6, mac, 6) || !(mac[0] & 2))
		return PASS;
	parsed = parse(ctx, &p);
	if (parsed == PARSED) {
		own = bpf_map_lookup_elem(&endpoints, &p.key.src);
		// Nearly everything: a pod's packet that is in order.
		if (owns(&sender, own) && p.key.proto != IPPROTO_ICMPV6)
			return PASS;
	}
	uplink = bpf_map_lookup_elem(&macs, mac);
	if (!uplink || *uplink != ctx->ifindex)
		return PASS;
	switch (parsed) {
	case INVALID:
		return drop(ctx, COUNT_INVALID);
	case NOT_IP:
		return is_own_frame(ctx, &sender) ? PASS : drop(ctx, COUNT_SPOOFED);
	case PARSED:
		break;
	}
	return is_own(ctx, &p, &sender, own) ? PASS : drop(ctx, COUNT_SPOOFED);
}

// Whether packets from other hosts are more than checked.
static __always_inline int acts_on_arrivals(void)
{
#ifndef NO_SERVICES
	if (masquerade || masquerade_drain)
		return 1;
#endif
	return host_routing;
}

// Whether a packet from outside says that it comes from the node itself. Without masquerading nobody told its
// addresses.
static __always_inline int as_from_node(const struct packet *p)
{
#ifndef NO_SERVICES
	const struct address *src = &p->key.src;

	if (!p->v6)
		return src->word[3] == masquerade4;
	return !((src->word[0] ^ masquerade6_0) | (src->word[1] ^ masquerade6_1) | (src->word[2] ^ masquerade6_2) |
		 (src->word[3] ^ masquerade6_3));
#else
	return 0;
#endif
}

SEC("tc")
int uplink_ingress(struct __sk_buff *ctx)
{
	int verdict = check_child(ctx);
	struct packet p = {};

	if (verdict != PASS || !acts_on_arrivals() || ctx->vlan_present || parse(ctx, &p) != PARSED)
		return verdict;
#ifndef NO_SERVICES
	if (masquerade || masquerade_drain)
		verdict = masquerade_ingress(ctx, &p);
#endif
	return verdict == PASS && host_routing && !as_from_node(&p) ? enter(ctx, &p) : verdict;
}

// Whether what leaves is from who it says.
//
// Children of ipvlan send with the uplink's own MAC, as the node does. What the node didn't forward, and has the
// address of a pod that doesn't live on this uplink, is an ipvlan pod's doing.
static __always_inline int check_sender(struct __sk_buff *ctx)
{
	int verdict = check_child(ctx);
	struct packet p = {};
	struct endpoint *e;

	if (verdict != PASS || !source_check || ctx->ingress_ifindex || parse(ctx, &p) != PARSED)
		return verdict;
	e = bpf_map_lookup_elem(&endpoints, &p.key.src);
	if (e && (e->ifindex != ctx->ifindex || e->attach < MACVLAN))
		return drop(ctx, COUNT_SPOOFED);
	return PASS;
}

SEC("tc")
int uplink_egress(struct __sk_buff *ctx)
{
	int verdict = check_sender(ctx);

	if (verdict == PASS && pace)
		verdict = pace_pod(ctx);
#ifndef NO_SERVICES
	if (verdict == PASS && (masquerade || masquerade_drain))
		return masquerade_egress(ctx);
#endif
	return verdict;
}

// Ingress of the root namespace's end of an ipvlan-l3 pod's pair to pods of other attachments. Which pod's it is shows
// by the MAC that a frame is for: the stack takes no frame that is for another one than the end's own.
SEC("tc")
int detour_ingress(struct __sk_buff *ctx)
{
	struct packet p = {};
	struct endpoint *own;
	__u8 mac[6] __attribute__((aligned(2)));

	if (!source_check)
		return PASS;
	switch (parse(ctx, &p)) {
	case INVALID:
		return drop(ctx, COUNT_INVALID);
	case NOT_IP:
		return PASS; // nobody learns neighbours here
	case PARSED:
		break;
	}
	own = bpf_map_lookup_elem(&endpoints, &p.key.src);
	if (own && own->attach == IPVLAN_L3 && !bpf_skb_load_bytes(ctx, 0, mac, 6) && same_mac(mac, own->host_mac))
		return PASS;
	return without_address(&p) ? PASS : drop(ctx, COUNT_SPOOFED);
}
