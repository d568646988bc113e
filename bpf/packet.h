// One packet, as the programs of packet.c see it.
#pragma once
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include "backend.h"

struct packet {
	struct flow_key key; // of the packet as it came; ports are 0 where there are none. ICMP echo: both are its id
	__u32 l3;	     // offset of the IP header
	__u32 l4;	     // offset of what follows the IP header and its extensions
	__u32 fragment_id;   // as it stands in the header, where fragment isn't FRAGMENT_NONE
	__u8 v6;
	__u8 tcp_flags; // byte 13 of the TCP header
	__u8 icmp_type;
	__u8 fragment; // FRAGMENT_*
	__u8 hops;     // time to live, or hop limit
};

enum { FRAGMENT_NONE, FRAGMENT_FIRST, FRAGMENT_LATER };

enum parsed {
	PARSED,
	NOT_IP,
	INVALID, // shorter than it says, or than its protocol asks for
};

enum { AF_INET = 2, AF_INET6 = 10 };

enum tcp_flags { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

enum {
	PASS = -1, // to the next program, or on its way: TCX_NEXT, TC_ACT_UNSPEC
	L3 = sizeof(struct ethhdr),
	TCP_SIZE = 20,
	UDP_SIZE = 8,
	ICMP_SIZE = 8,
	MOST_EXTENSIONS = 6,
};

// Makes sure that the first n bytes can be read directly. A packet from a pod has its headers there; one that came from
// elsewhere may not.
static __always_inline int pull(struct __sk_buff *ctx, __u32 n)
{
	if (ctx->data + n <= ctx->data_end)
		return 0;
	return ctx->len < n ? -1 : bpf_skb_pull_data(ctx, n);
}

// Where n bytes of the packet can be read directly, or 0. For offsets that are constants: those that aren't would cost
// more than a call.
static __always_inline void *direct(struct __sk_buff *ctx, __u32 at, __u32 n)
{
	void *data = (void *)(long)ctx->data;

	return __builtin_constant_p(at) && data + at + n <= (void *)(long)ctx->data_end ? data + at : 0;
}

// The first bytes of a transport header, in pieces that are read at once.
struct transport {
	__be32 ports; // both
	__u32 seq;
	__u32 ack;
	__u8 size;
	__u8 flags;
};

enum { UP_TO_PORTS = 4, UP_TO_FLAGS = 14 };

// Reads the ports and what else is asked about the transport header at `at`, of which the packet has `left` bytes by
// its own word.
static __always_inline enum parsed parse_transport(struct __sk_buff *ctx, struct packet *p, __u32 at, __u32 left)
{
	struct transport copied, *t;
	__u8 head[8];

	switch (p->key.proto) {
	case IPPROTO_TCP:
		if (left < TCP_SIZE || ctx->len < at + TCP_SIZE)
			return INVALID;
		t = direct(ctx, at, UP_TO_FLAGS);
		if (!t) {
			t = &copied;
			if (bpf_skb_load_bytes(ctx, at, t, UP_TO_FLAGS))
				return INVALID;
		}
		p->tcp_flags = t->flags;
		break;
	case IPPROTO_UDP:
		if (left < UDP_SIZE || ctx->len < at + UDP_SIZE)
			return INVALID;
		t = direct(ctx, at, UP_TO_PORTS);
		if (!t) {
			t = &copied;
			if (bpf_skb_load_bytes(ctx, at, t, UP_TO_PORTS))
				return INVALID;
		}
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (left < ICMP_SIZE || bpf_skb_load_bytes(ctx, at, head, 8))
			return INVALID;
		p->icmp_type = head[0];
		if (p->v6 ? head[0] == 128 || head[0] == 129 : head[0] == 0 || head[0] == 8) {
			memcpy(&p->key.sport, head + 4, 2);
			p->key.dport = p->key.sport;
		}
		return PARSED;
	default:
		return PARSED;
	}
	memcpy(&p->key.sport, &t->ports, sizeof(t->ports));
	return PARSED;
}

static __always_inline enum parsed parse4(struct __sk_buff *ctx, struct packet *p)
{
	struct iphdr *ip;
	__u32 head, total;
	__u16 fragment;

	if (pull(ctx, L3 + sizeof(*ip)))
		return INVALID;
	ip = (void *)(long)ctx->data + L3;
	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return INVALID;
	head = ip->ihl * 4;
	// Segments that aren't cut yet may be too long for the field, which is then 0.
	total = ip->tot_len ? bpf_ntohs(ip->tot_len) : 0xffff;
	if (ip->version != 4 || head < sizeof(*ip) || total < head)
		return INVALID;
	ipv4(&p->key.src, ip->saddr);
	ipv4(&p->key.dst, ip->daddr);
	p->key.proto = ip->protocol;
	p->hops = ip->ttl;
	p->l4 = L3 + head;
	fragment = bpf_ntohs(ip->frag_off);
	if (fragment & 0x3fff) {
		p->fragment = fragment & 0x1fff ? FRAGMENT_LATER : FRAGMENT_FIRST;
		p->fragment_id = ip->id;
		if (p->fragment == FRAGMENT_LATER)
			return PARSED;
	}
	if (head == sizeof(*ip))
		return parse_transport(ctx, p, L3 + sizeof(*ip), total - sizeof(*ip));
	return parse_transport(ctx, p, p->l4, total - head);
}

// Reads over the extension headers of an IPv6 packet. What lies behind more of them than anybody sends, or behind a
// route that isn't travelled yet, is left alone: its protocol stays that of the extension.
static __always_inline enum parsed parse_extensions(struct __sk_buff *ctx, struct packet *p)
{
	for (int i = 0; i < MOST_EXTENSIONS; i++) {
		__u8 head[8];

		switch (p->key.proto) {
		case IPPROTO_HOPOPTS:
		case IPPROTO_ROUTING:
		case IPPROTO_DSTOPTS:
		case IPPROTO_FRAGMENT:
			break;
		default:
			return PARSED;
		}
		if (bpf_skb_load_bytes(ctx, p->l4, head, sizeof(head)))
			return INVALID;
		if (p->key.proto == IPPROTO_ROUTING && head[3])
			return PARSED;
		if (p->key.proto == IPPROTO_FRAGMENT) {
			__u16 at = head[2] << 8 | head[3];

			memcpy(&p->fragment_id, head + 4, 4);
			if (at & 0xfff8)
				p->fragment = FRAGMENT_LATER;
			else if (at & 1)
				p->fragment = FRAGMENT_FIRST;
			p->l4 += 8;
		} else {
			p->l4 += (head[1] + 1) * 8;
		}
		p->key.proto = head[0];
		if (p->fragment == FRAGMENT_LATER)
			return PARSED;
	}
	return PARSED;
}

static __always_inline enum parsed parse6(struct __sk_buff *ctx, struct packet *p)
{
	struct ipv6hdr *ip;
	__u32 end, left;

	if (pull(ctx, L3 + sizeof(*ip)))
		return INVALID;
	ip = (void *)(long)ctx->data + L3;
	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return INVALID;
	if (ip->version != 6)
		return INVALID;
	p->v6 = 1;
	memcpy(&p->key.src, &ip->saddr, 32);
	// The maps have IPv4 addresses like this; no packet may.
	if (is_ipv4(&p->key.src) || is_ipv4(&p->key.dst))
		return INVALID;
	p->key.proto = ip->nexthdr;
	p->hops = ip->hop_limit;
	p->l4 = L3 + sizeof(*ip);
	end = ip->payload_len ? p->l4 + bpf_ntohs(ip->payload_len) : ctx->len;
	if (p->key.proto == IPPROTO_TCP || p->key.proto == IPPROTO_UDP)
		return parse_transport(ctx, p, L3 + sizeof(*ip), end - L3 - sizeof(*ip));
	if (parse_extensions(ctx, p) == INVALID)
		return INVALID;
	if (p->fragment == FRAGMENT_LATER)
		return PARSED;
	left = end > p->l4 ? end - p->l4 : 0;
	return parse_transport(ctx, p, p->l4, left);
}

// Reads a packet that starts with an Ethernet header. Frames with a VLAN tag aren't ours: NOT_IP.
static __always_inline enum parsed parse(struct __sk_buff *ctx, struct packet *p)
{
	p->l3 = L3;
	switch (ctx->protocol) {
	case bpf_htons(ETH_P_IP):
		return parse4(ctx, p);
	case bpf_htons(ETH_P_IPV6):
		return parse6(ctx, p);
	}
	return NOT_IP;
}

static __always_inline void count(struct __sk_buff *ctx, __u32 what)
{
	struct counted *c = bpf_map_lookup_elem(&counters, &what);

	if (c) {
		c->packets++;
		c->bytes += ctx->len;
	}
}

static __always_inline int drop(struct __sk_buff *ctx, __u32 why)
{
	count(ctx, why);
	return TC_ACT_SHOT;
}
