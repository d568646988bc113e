// Answers for services that nobody stands behind: the client learns at once, not by a time-out.
#pragma once
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include "checksum.h"
#include "packet.h"

enum {
	AT_IP = sizeof(struct ethhdr),
	QUOTED4 = 576 - sizeof(struct iphdr) - sizeof(struct icmp),    // RFC 1812, 4.3.2.3
	QUOTED6 = 1280 - sizeof(struct ipv6hdr) - sizeof(struct icmp), // RFC 4443, 2.4
	CHUNK = 64,
	CUT = 128, // beyond the start of any header whose checksum a device is to fill in
	MAC_SIZE = 6,
};

// The pseudo header of either family. IPv4 addresses are in it as ::ffff:a.b.c.d: 0xffff twice adds nothing.
struct pseudo {
	struct address src;
	struct address dst;
	__be32 length;
	__be32 proto;
};

// Where a packet ends by its own word, at most where the buffer ends. 0: it contradicts itself.
static __always_inline __u32 end_of(struct __sk_buff *ctx, const struct packet *p)
{
	__u32 end = ctx->len;
	__be16 length;

	if (bpf_skb_load_bytes(
		    ctx, AT_IP + (p->v6 ? offsetof(struct ipv6hdr, payload_len) : offsetof(struct iphdr, tot_len)),
		    &length, sizeof(length)))
		return 0;
	// Segments that aren't cut yet may be too long for the field, which is then 0.
	if (length) {
		__u32 said = AT_IP + bpf_ntohs(length) + (p->v6 ? sizeof(struct ipv6hdr) : 0);

		if (said < end)
			end = said;
	}
	return end < p->l4 ? 0 : end;
}

// The headers of an answer, from whom the packet went to.
static __always_inline int answer_headers(struct __sk_buff *ctx, const struct packet *p, __u8 proto, __u16 length)
{
	struct ethhdr eth;
	__u8 mac[MAC_SIZE];

	if (bpf_skb_load_bytes(ctx, 0, &eth, sizeof(eth)))
		return -1;
	memcpy(mac, eth.h_source, MAC_SIZE);
	memcpy(eth.h_source, eth.h_dest, MAC_SIZE);
	memcpy(eth.h_dest, mac, MAC_SIZE);
	if (bpf_skb_store_bytes(ctx, 0, &eth, sizeof(eth), 0))
		return -1;
	if (p->v6) {
		struct ipv6hdr ip = {
			.version = 6,
			.payload_len = bpf_htons(length),
			.nexthdr = proto,
			.hop_limit = 64,
		};

		memcpy(&ip.saddr, &p->key.dst, sizeof(ip.saddr));
		memcpy(&ip.daddr, &p->key.src, sizeof(ip.daddr));
		return bpf_skb_store_bytes(ctx, AT_IP, &ip, sizeof(ip), 0);
	}
	struct iphdr ip = {
		.version = 4,
		.ihl = sizeof(ip) / 4,
		.tot_len = bpf_htons(sizeof(ip) + length),
		.frag_off = bpf_htons(0x4000), // don't fragment, so it needs no number
		.ttl = 64,
		.protocol = proto,
		.saddr = p->key.dst.word[3],
		.daddr = p->key.src.word[3],
	};

	ip.check = ~fold(sum_of(&ip, sizeof(ip), 0));
	return bpf_skb_store_bytes(ctx, AT_IP, &ip, sizeof(ip), 0);
}

static __always_inline __u32 sum_of_pseudo(const struct packet *p, __u8 proto, __u32 length)
{
	struct pseudo pseudo = {
		.src = p->key.dst,
		.dst = p->key.src,
		.length = bpf_htonl(length),
		.proto = bpf_htonl(proto),
	};

	return sum_of(&pseudo, sizeof(pseudo), 0);
}

// An RST that the sender of a segment takes: RFC 9293, 3.5.2, group 1.
static __noinline int reset(struct __sk_buff *ctx, const struct packet *p)
{
	const __u32 ip = p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 end = end_of(ctx, p);
	struct tcphdr in, out = {.doff = sizeof(out) / 4, .rst = 1};

	if (!end || bpf_skb_load_bytes(ctx, p->l4, &in, sizeof(in)) || in.rst)
		return -1;
	out.source = in.dest;
	out.dest = in.source;
	if (in.ack) {
		out.seq = in.ack_seq;
	} else {
		__u32 data = p->l4 + in.doff * 4;

		if (in.doff < sizeof(in) / 4 || data > end)
			return -1;
		out.ack = 1;
		out.ack_seq = bpf_htonl(bpf_ntohl(in.seq) + end - data + in.syn + in.fin);
	}
	out.check = ~fold(sum_of(&out, sizeof(out), sum_of_pseudo(p, IPPROTO_TCP, sizeof(out))));

	// A device that was to fill in the segment's checksum would spoil the answer. The kernel takes the order back
	// when the place falls off the front of the packet.
	if (bpf_skb_change_tail(ctx, AT_IP + CUT + ip + sizeof(out), 0) ||
	    bpf_skb_adjust_room(ctx, -CUT, BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(ctx, AT_IP + ip, &out, sizeof(out), 0))
		return -1;
	return answer_headers(ctx, p, IPPROTO_TCP, sizeof(out));
}

// The sum of n bytes of the packet, and of what was summed before.
static __always_inline __u32 sum_of_packet(struct __sk_buff *ctx, __u32 at, __u32 n, __u32 sum)
{
	for (__u32 i = 0; i < (QUOTED6 + CHUNK - 1) / CHUNK; i++) {
		__u32 words[CHUNK / 4] = {};
		__u32 last = n - i * CHUNK - 1; // of those that are left

		if (i * CHUNK >= n)
			break;
		if (last >= CHUNK)
			last = CHUNK - 1;
		// Old verifiers see both bounds only where they are those of one register.
		asm volatile("" : "+r"(last));
		if (last >= CHUNK || bpf_skb_load_bytes(ctx, at + i * CHUNK, words, last + 1))
			break;
		sum = sum_of(words, sizeof(words), sum);
	}
	return sum;
}

// An ICMP error that says that nobody listens, with as much of the packet as such errors hold.
static __noinline int unreachable(struct __sk_buff *ctx, const struct packet *p)
{
	const __u32 ip = p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	const __u32 most = p->v6 ? QUOTED6 : QUOTED4;
	const __u8 proto = p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
	__u32 end = end_of(ctx, p), quoted = end - AT_IP, sum;
	struct icmp icmp = {.type = 3, .code = 3}; // port unreachable
	__u32 head[CUT / 4];

	if (end < p->l4 + sizeof(struct udphdr))
		return -1;
	if (quoted > most)
		quoted = most;
	// As in reset(), but here the packet stays: its head is put back.
	if (bpf_skb_change_tail(ctx, AT_IP + (quoted > CUT + ip ? quoted : CUT + ip), 0) ||
	    bpf_skb_load_bytes(ctx, AT_IP, head, sizeof(head)) || bpf_skb_adjust_room(ctx, -CUT, BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_adjust_room(ctx, CUT + ip + sizeof(icmp), BPF_ADJ_ROOM_MAC, 0) ||
	    bpf_skb_store_bytes(ctx, AT_IP + ip + sizeof(icmp), head, sizeof(head), 0) ||
	    bpf_skb_change_tail(ctx, AT_IP + ip + sizeof(icmp) + quoted, 0))
		return -1;
	if (p->v6) {
		icmp.type = 1;
		icmp.code = 4;
	}
	sum = sum_of(&icmp, sizeof(icmp), p->v6 ? sum_of_pseudo(p, proto, sizeof(icmp) + quoted) : 0);
	icmp.check = ~fold(sum_of_packet(ctx, AT_IP + ip + sizeof(icmp), quoted, sum));
	if (bpf_skb_store_bytes(ctx, AT_IP + ip, &icmp, sizeof(icmp), 0))
		return -1;
	return answer_headers(ctx, p, proto, sizeof(icmp) + quoted);
}

// Answers a packet to a service without backends in the service's name and sends the answer back through the device:
// flags is 0 where packets come in, BPF_F_INGRESS where they go out. What must not or can't be answered is dropped.
static __always_inline int refuse(struct __sk_buff *ctx, struct packet *p, __u64 flags)
{
	int failed = -1;

	// Each datagram is answered once, and nobody but one host.
	if (p->fragment == FRAGMENT_LATER || p->l3 != AT_IP)
		return TC_ACT_SHOT;
	if (p->v6 ? (p->key.src.word[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000)
		  : (p->key.src.word[3] & bpf_htonl(0xe0000000)) == bpf_htonl(0xe0000000) || !p->key.src.word[3])
		return TC_ACT_SHOT;
	switch (p->key.proto) {
	case IPPROTO_TCP:
		failed = reset(ctx, p);
		break;
	case IPPROTO_UDP:
		failed = unreachable(ctx, p);
		break;
	}
	return failed ? TC_ACT_SHOT : bpf_redirect(ctx->ifindex, flags);
}
