// The source check, and the short way between pods of this node.
#pragma once
#include "checksum.h"
#include "packet.h"

// The node's settings; they are set when the programs are loaded.
const volatile __u32 redirect;	   // 1: send packets for pods of this node straight to them
const volatile __u32 source_check; // 1: drop what a pod sends from an address that isn't its own

// What may be known about the sender of a frame by where it comes from.
struct sender {
	__u32 ifindex;
	const __u8 *mac; // or 0: who sends through this device is known by the device alone
};

// MACs lie at even offsets, in packets and in maps. Byte by byte, a copy takes twice as long.
struct even_mac {
	__u16 part[3];
};

static __always_inline void copy_mac(__u8 *to, const __u8 *from)
{
	*(struct even_mac *)to = *(const struct even_mac *)from;
}

static __always_inline int same_mac(const __u8 *x, const __u8 *y)
{
	const struct even_mac *a = (const void *)x, *b = (const void *)y;

	return !((a->part[0] ^ b->part[0]) | (a->part[1] ^ b->part[1]) | (a->part[2] ^ b->part[2]));
}

static __always_inline int owns(const struct sender *s, const struct endpoint *e)
{
	return e && e->ifindex == s->ifindex && (!s->mac || same_mac(s->mac, e->mac));
}

static __always_inline int owns_address(const struct sender *s, const struct address *a)
{
	return owns(s, bpf_map_lookup_elem(&endpoints, a));
}

static __always_inline int is_link_local(const struct address *a)
{
	return (a->word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

// Whether a packet may have a source that no pod has. Link-local ones of IPv6 reach no further than the link, and the
// unspecified ones are for who has no address yet. IPv4's link-local addresses aren't given to pods.
static __always_inline int without_address(const struct packet *p)
{
	if (!p->v6)
		return !p->key.src.word[3] && p->key.dst.word[3] == 0xffffffff && p->key.proto == IPPROTO_UDP &&
		       p->key.dport == bpf_htons(67);
	if (is_link_local(&p->key.src))
		return 1;
	return p->key.proto == IPPROTO_ICMPV6 &&
	       !(p->key.src.word[0] | p->key.src.word[1] | p->key.src.word[2] | p->key.src.word[3]);
}

enum { NEIGHBOUR_ADVERTISEMENT = 136 };

// Whether a packet says nothing of others as its sender's own: neither in its source, nor, in a neighbour
// advertisement, in the address that it is about.
static __always_inline int is_own(struct __sk_buff *ctx, const struct packet *p, const struct sender *s,
				  const struct endpoint *src)
{
	if (!owns(s, src) && !without_address(p))
		return 0;
	if (p->v6 && p->key.proto == IPPROTO_ICMPV6 && p->icmp_type == NEIGHBOUR_ADVERTISEMENT) {
		struct address target;

		if (bpf_skb_load_bytes(ctx, p->l4 + 8, &target, sizeof(target)))
			return 0;
		return is_link_local(&target) || owns_address(s, &target);
	}
	return 1;
}

// What ARP says about its sender, for Ethernet and IPv4.
struct arp {
	__be16 hardware, protocol;
	__u8 hardware_size, protocol_size;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
};

// Whether there is a further VLAN tag behind one that is none: with id 0 it only tells a priority, and whoever gets the
// frame takes both off and reads what is inside, which nobody has checked.
static __always_inline int hides_packet(struct __sk_buff *ctx)
{
	__be16 tag = 0;

	if (ctx->protocol != bpf_htons(ETH_P_8021Q) && ctx->protocol != bpf_htons(ETH_P_8021AD))
		return 0;
	if (ctx->vlan_present)
		return !(ctx->vlan_tci & 0xfff);
	return bpf_skb_load_bytes(ctx, L3, &tag, sizeof(tag)) || !(tag & bpf_htons(0xfff));
}

// Whether a frame that isn't IP says nothing of others. Only ARP tells of addresses.
static __noinline int is_own_frame(struct __sk_buff *ctx, const struct sender *s)
{
	struct address a;
	struct arp arp;
	__be32 sender;

	if (ctx->protocol != bpf_htons(ETH_P_ARP))
		return !hides_packet(ctx);
	if (bpf_skb_load_bytes(ctx, L3, &arp, sizeof(arp)))
		return 0;
	memcpy(&sender, arp.sender, 4);
	ipv4(&a, sender);
	return !sender || owns_address(s, &a); // 0: is the address free?
}

static __always_inline int is_pair(const struct endpoint *e)
{
	return e->attach == VETH || e->attach == NETKIT || e->attach == BRIDGE;
}

// Whether packets for a pod go straight to it. They don't where they would be the last hop of a packet that has used up
// its own: the stack answers those.
static __always_inline int goes_straight(struct __sk_buff *ctx, const struct packet *p, const struct endpoint *to)
{
	return redirect && to && is_pair(to) && p->hops > 1 && !ctx->vlan_present;
}

// Whether what goes straight to a pod still passes its to_pod, as it waits in a queue of its pair's end.
static __always_inline int is_queued(const struct endpoint *to)
{
	return to->mtu;
}

// Takes one hop off a packet; -1 where that can't be done.
static __always_inline int take_hop(struct __sk_buff *ctx, const struct packet *p)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (p->v6) {
		struct ipv6hdr *ip = data + L3;

		if ((void *)(ip + 1) > end)
			return -1;
		ip->hop_limit--;
	} else {
		struct iphdr *ip = data + L3;
		__u32 sum;

		if ((void *)(ip + 1) > end)
			return -1;
		ip->ttl--;
		sum = ip->check + bpf_htons(0x0100);
		ip->check = sum + (sum >= 0xffff);
	}
	return 0;
}

// Sends a packet straight to a pod, as its gateway would, with its MACs and one hop less; or as their bridge would, if
// the frame is for the pod already. It may be larger than the pod's own device sends: devices take what comes. Only
// what comes by a queue has to fit; the stack answers what doesn't.
static __always_inline int send_straight(struct __sk_buff *ctx, const struct packet *p, const struct endpoint *to)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return PASS;
	if (is_queued(to) && !ctx->gso_size && ctx->len > to->mtu + L3)
		return PASS;
	if (to->attach == BRIDGE && same_mac(eth->h_dest, to->mac))
		goto addressed;
	if (take_hop(ctx, p))
		return PASS;
	copy_mac(eth->h_dest, to->mac);
	copy_mac(eth->h_source, to->host_mac);
addressed:
	// Through a bridge's port come frames for the bridge's MAC and for other pods', which aren't the port's.
	if (ctx->pkt_type)
		bpf_skb_change_type(ctx, 0);
	count(ctx, COUNT_FORWARDED);
	return is_queued(to) ? bpf_redirect(to->ifindex, 0) : bpf_redirect_peer(to->ifindex, 0);
}
