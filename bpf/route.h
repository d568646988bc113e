// The way between pods and uplinks past the node's stack, its firewall and its connection table.
#pragma once
#include "forward.h"
#ifndef NO_SERVICES
#include "translate.h"
#endif

// A setting of the node, as those in forward.h. 1: what pods send to other hosts goes straight to the uplink, and what
// comes from there straight to the pod. It needs `redirect`.
const volatile __u32 host_routing;

// Whether the stack never forwards a packet from or to an IPv4 address, whatever its routes: 0.0.0.0/8, 127.0.0.0/8,
// multicast, and what is beyond. The kernel's own lookup of routes asks for these of IPv6 alone.
static __always_inline int never_forwarded(const struct address *a)
{
	__u32 net = bpf_ntohl(a->word[3]) >> 24;

	return is_ipv4(a) && (!net || net == 127 || net >= 224);
}

// How long a packet is on the wire, without its Ethernet header: TCP and UDP may yet have to be cut into segments.
static __always_inline __u32 segment(struct __sk_buff *ctx, const struct packet *p)
{
	__u32 size = ctx->len - L3;
	__u8 words = 0;

	if (ctx->gso_size) {
		size = p->l4 - L3 + ctx->gso_size;
		if (p->key.proto == IPPROTO_TCP && !bpf_skb_load_bytes(ctx, p->l4 + 12, &words, 1))
			size += (words >> 4) * 4;
		else
			size += UDP_SIZE;
	}
	return size < 0xffff ? size : 0xffff;
}

// Whether routers have to look at what is in a packet's header: IPv4's options, and IPv6's for each hop.
static __always_inline int asks_routers(struct __sk_buff *ctx, const struct packet *p)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (p->v6) {
		struct ipv6hdr *ip = data + L3;

		return (void *)(ip + 1) > end || ip->nexthdr == IPPROTO_HOPOPTS;
	} else {
		struct iphdr *ip = data + L3;

		return (void *)(ip + 1) > end || ip->ihl != 5;
	}
}

// Sends what a pod has for another host to the uplink that the kernel's routes lead to, as the stack would. dst is
// where it goes by now. Whatever is routed otherwise, or is too large for its way, or at its last hop, passes the
// stack, which answers it; and so does what asks routers to look at it.
static __noinline int leave(struct __sk_buff *ctx, const struct packet *p, const struct endpoint *own,
			    const struct address *dst)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct bpf_fib_lookup route = {};
	struct bpf_redir_neigh next = {};
	struct ethhdr *eth = data;
	__u32 size, *mtu;
	int answer;

	if (!own || own->ifindex != ctx->ifindex || p->hops <= 1 || ctx->vlan_present)
		return PASS;
	// On a bridge, a frame may be for a neighbour that is somebody's router.
	if ((void *)(eth + 1) > end || !same_mac(eth->h_dest, own->host_mac) || asks_routers(ctx, p))
		return PASS;
	if (p->v6) {
		struct ipv6hdr *ip = data + L3;

		if ((void *)(ip + 1) > end)
			return PASS;
		route.family = AF_INET6;
		route.flowinfo = *(__be32 *)ip & bpf_htonl(0x0fffffff);
		memcpy(route.ipv6_src, &p->key.src, 16);
		memcpy(route.ipv6_dst, dst, 16);
	} else {
		struct iphdr *ip = data + L3;

		if ((void *)(ip + 1) > end || never_forwarded(dst))
			return PASS;
		route.family = AF_INET;
		route.tos = ip->tos;
		route.ipv4_src = p->key.src.word[3];
		route.ipv4_dst = dst->word[3];
	}
	route.l4_protocol = p->key.proto;
	route.sport = p->key.sport;
	route.dport = p->key.dport;
	size = segment(ctx, p);
	route.tot_len = size; // for the route's MTU; up to 5.11 the kernel doesn't look at it
	route.ifindex = ctx->ifindex;
	answer = bpf_fib_lookup(ctx, &route, sizeof(route), 0);
	// A neighbour that isn't known yet is asked for when the packet gets there.
	if (answer != BPF_FIB_LKUP_RET_SUCCESS && answer != BPF_FIB_LKUP_RET_NO_NEIGH)
		return PASS;
	mtu = bpf_map_lookup_elem(&uplinks, &route.ifindex);
	if (!mtu || size > *mtu || take_hop(ctx, p))
		return PASS;
	next.nh_family = route.family; // of the next hop, which need not be the packet's
	memcpy(next.ipv6_nh, route.ipv6_dst, 16);
	if (ctx->pkt_type)
		bpf_skb_change_type(ctx, 0); // a bridge's port takes what is for the bridge
	count(ctx, COUNT_ROUTED);
	return bpf_redirect_neigh(route.ifindex, &next, sizeof(next), 0);
}

// Whether a packet comes by an uplink. Its caller has no room on its stack.
static __noinline int by_uplink(struct __sk_buff *ctx)
{
	__u32 ifindex = ctx->ifindex;

	return !!bpf_map_lookup_elem(&uplinks, &ifindex);
}

// Sends what comes by an uplink for a pod that has a pair straight to it. What claims to come from a pod of this node
// doesn't: the stack judges it.
static __always_inline int enter(struct __sk_buff *ctx, struct packet *p)
{
	struct endpoint *to = bpf_map_lookup_elem(&endpoints, &p->key.dst);
	int verdict;

	if (ctx->pkt_type || !goes_straight(ctx, p, to) || asks_routers(ctx, p) || never_forwarded(&p->key.src) ||
	    is_link_local(&p->key.src) || bpf_map_lookup_elem(&endpoints, &p->key.src) || !by_uplink(ctx))
		return PASS;
#ifndef NO_SERVICES
	if (!is_queued(to)) { // else its to_pod sees it
		verdict = name(ctx, p);
		if (verdict != PASS)
			return verdict;
	}
#endif
	verdict = send_straight(ctx, p, to);
	// A device that has summed up the packet must not find another sum. IPv4 has one of its own to make up for it.
	if (verdict != PASS && p->v6)
		bpf_csum_update(ctx, ~(__u32)bpf_htons(1));
	return verdict;
}
