// ICMP errors about translated packets. They quote the packet as it was where it failed; its sender has to see it as it
// was sent, or knows no connection that it is about.
#pragma once
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include "checksum.h"
#include "packet.h"

// What an error quotes. Offsets are those in the packet.
struct quoted {
	struct flow_key key;
	__u32 addrs;	// of source and destination address
	__u32 l4;	// of the ports, or of an echo's id
	__u32 check;	// of the transport's checksum; 0: not quoted, or there is none
	__u32 ip_check; // of the IPv4 header's; 0: IPv6
};

enum { EXTENSIONS = 4 };

// Whether this is an error about a packet on its way.
static __always_inline int is_icmp_error(const struct packet *p)
{
	if (p->v6)
		return p->key.proto == IPPROTO_ICMPV6 && p->icmp_type >= 1 && p->icmp_type <= 4;
	return p->key.proto == IPPROTO_ICMP && (p->icmp_type == 3 || p->icmp_type == 11 || p->icmp_type == 12);
}

// The header that follows an extension header of IPv6, or -1: it is none, or the packet's later fragment.
static __always_inline int next_header(struct __sk_buff *ctx, __u8 proto, __u32 *at)
{
	__u8 head[4];

	switch (proto) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
	case IPPROTO_FRAGMENT:
		break;
	default:
		return -1;
	}
	if (bpf_skb_load_bytes(ctx, *at, head, sizeof(head)))
		return -1;
	if (proto != IPPROTO_FRAGMENT)
		*at += (head[1] + 1) * 8;
	else if (head[2] || head[3] & 0xf8)
		return -1;
	else
		*at += 8;
	return head[0];
}

static __always_inline int is_echo_id(__u8 proto)
{
	return proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6;
}

// Reads a quoted echo request or answer, whose id stands for both ports.
static __always_inline int read_quoted_echo(struct __sk_buff *ctx, __u8 v6, struct quoted *q)
{
	struct icmp echo;

	if (bpf_skb_load_bytes(ctx, q->l4, &echo, sizeof(echo)) ||
	    (v6 ? echo.type != 128 && echo.type != 129 : echo.type != 8 && echo.type != 0))
		return -1;
	q->key.sport = q->key.dport = (__be16)echo.rest;
	q->check = q->l4 + offsetof(struct icmp, check);
	q->l4 += offsetof(struct icmp, rest);
	return 0;
}

// Reads what is quoted at an offset. -1: no packet with ports or an id.
static __always_inline int read_quoted(struct __sk_buff *ctx, __u32 at, __u8 v6, struct quoted *q)
{
	struct ports ports;
	__be16 check;
	__u32 end;

	if (v6) {
		struct ipv6hdr ip;
		int proto;

		if (bpf_skb_load_bytes(ctx, at, &ip, sizeof(ip)) || ip.version != 6)
			return -1;
		memcpy(&q->key.src, &ip.saddr, sizeof(q->key.src));
		memcpy(&q->key.dst, &ip.daddr, sizeof(q->key.dst));
		q->addrs = at + offsetof(struct ipv6hdr, saddr);
		q->l4 = at + sizeof(ip);
		end = q->l4 + bpf_ntohs(ip.payload_len);
		proto = ip.nexthdr;
#pragma unroll
		for (int i = 0; i < EXTENSIONS; i++) {
			if (proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_ICMPV6)
				break;
			proto = next_header(ctx, proto, &q->l4);
			if (proto < 0)
				return -1;
		}
		q->key.proto = proto;
	} else {
		struct iphdr ip;

		if (bpf_skb_load_bytes(ctx, at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
		    ip.frag_off & bpf_htons(0x1fff))
			return -1;
		ipv4(&q->key.src, ip.saddr);
		ipv4(&q->key.dst, ip.daddr);
		q->addrs = at + offsetof(struct iphdr, saddr);
		q->ip_check = at + offsetof(struct iphdr, check);
		q->l4 = at + ip.ihl * 4;
		end = at + bpf_ntohs(ip.tot_len);
		q->key.proto = ip.protocol;
	}
	if (q->key.proto == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return read_quoted_echo(ctx, v6, q);
	if (q->key.proto != IPPROTO_TCP && q->key.proto != IPPROTO_UDP)
		return -1;
	if (bpf_skb_load_bytes(ctx, q->l4, &ports, sizeof(ports)))
		return -1;
	q->key.sport = ports.sport;
	q->key.dport = ports.dport;
	q->check = q->l4 + (q->key.proto == IPPROTO_TCP ? 16 : 6);
	// What follows a short quotation may be something else: RFC 4884.
	if (q->check + sizeof(check) > end || bpf_skb_load_bytes(ctx, q->check, &check, sizeof(check)) ||
	    (q->key.proto == IPPROTO_UDP && !check))
		q->check = 0;
	return 0;
}

// Changes a checksum for a change of what it is about. Returns what that adds to a sum over both, -1: it isn't there.
static __always_inline int fix(struct __sk_buff *ctx, __u32 at, __u32 change, int udp)
{
	__u16 was, now;

	if (bpf_skb_load_bytes(ctx, at, &was, sizeof(was)))
		return -1;
	now = changed(was, change);
	if (udp && !now)
		now = 0xffff;
	if (bpf_skb_store_bytes(ctx, at, &now, sizeof(now), 0))
		return -1;
	return (__u16)~was + now;
}

// Source and destination address, as a header has them where v6, else in their fourth words.
struct pair {
	struct address src;
	struct address dst;
};

static __always_inline int write_pair(struct __sk_buff *ctx, __u32 at, __u8 v6, const struct pair *pair)
{
	__be32 v4[2] = {pair->src.word[3], pair->dst.word[3]};

	if (v6)
		return bpf_skb_store_bytes(ctx, at, pair, sizeof(*pair), 0);
	return bpf_skb_store_bytes(ctx, at, v4, sizeof(v4), 0);
}

static __always_inline int is_masqueraded(const struct flow *f)
{
	return f->kind == MASQUERADE || f->kind == UNMASQUERADE;
}

static __always_inline int same(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] && a->word[2] == b->word[2] &&
	       a->word[3] == b->word[3];
}

// What a packet with key r becomes by flow f.
static __always_inline void translated(const struct flow_key *r, const struct flow *f, struct flow_key *t)
{
	*t = *r;
	switch (f->kind) {
	case HAIRPIN_FORWARD:
		t->src = r->dst;
		// and as FORWARD
	case FORWARD:
		t->dst = f->addr;
		t->dport = f->port;
		break;
	case HAIRPIN_REVERSE:
		t->dst = r->src;
		// and as REVERSE
	case REVERSE:
		t->src = f->addr;
		t->sport = f->port;
		break;
	case MASQUERADE:
		t->src = f->addr;
		t->sport = f->port;
		if (r->proto != IPPROTO_TCP && r->proto != IPPROTO_UDP)
			t->dport = f->port;
		break;
	case UNMASQUERADE:
		t->dst = f->addr;
		t->dport = f->port;
		if (r->proto != IPPROTO_TCP && r->proto != IPPROTO_UDP)
			t->sport = f->port;
		break;
	}
}

// Translates an ICMP error, whichever way it goes: a packet that answered to the quoted one would be translated by its
// flow, so the quoted packet becomes one that the translated answer answers to, and the error goes where that would go.
//
// Flows of services and masqueraded ones are translated at different places: masqueraded says which of them.
//
// Returns the kind of that flow, and p->key has the new addresses; 0 if this is about no flow of ours; -1 if the packet
// has to be dropped. The kernel's checksums of ICMP are complete, so nothing is left to a device here.
static inline __noinline int icmp_error(struct __sk_buff *ctx, struct packet *p, int masqueraded)
{
	struct quoted q = {};
	struct flow_key answer = {}, becomes;
	struct pair was, now;
	struct ports ports;
	__u32 addrs, sum, covered;
	struct flow *f;
	int added;

	if (!is_icmp_error(p) || p->fragment != FRAGMENT_NONE ||
	    read_quoted(ctx, p->l4 + sizeof(struct icmp), p->v6, &q))
		return 0;
	answer.src = q.key.dst;
	answer.dst = q.key.src;
	answer.sport = q.key.dport;
	answer.dport = q.key.sport;
	answer.proto = q.key.proto;
	f = bpf_map_lookup_elem(&flows, &answer);
	// An error goes to who sent the packet.
	if (!f || is_masqueraded(f) != masqueraded || !same(&p->key.dst, &answer.dst))
		return 0;
	translated(&answer, f, &becomes);

	was.src = q.key.src;
	was.dst = q.key.dst;
	now.src = becomes.dst;
	now.dst = becomes.src;
	ports.sport = becomes.dport;
	ports.dport = becomes.sport;
	addrs = fold(sum_change(&was, &now, sizeof(was), 0));
	if (write_pair(ctx, q.addrs, p->v6, &now))
		return -1;
	if (is_echo_id(q.key.proto)) {
		__u32 id[2] = {q.key.sport, ports.sport};

		covered = fold(sum_change(&id[0], &id[1], 4, 0));
		sum = addrs + covered;
		if (p->v6)
			covered = sum; // IPv4's ICMP has a checksum over no address
		if (bpf_skb_store_bytes(ctx, q.l4, &ports.sport, sizeof(ports.sport), 0))
			return -1;
	} else {
		sum = covered = addrs + fold(sum_change(&q.key.sport, &ports, sizeof(ports), 0));
		if (bpf_skb_store_bytes(ctx, q.l4, &ports, sizeof(ports), 0))
			return -1;
	}
	if (q.check) {
		added = fix(ctx, q.check, covered, q.key.proto == IPPROTO_UDP);
		if (added < 0)
			return -1;
		sum += added;
	}
	if (q.ip_check) {
		added = fix(ctx, q.ip_check, addrs, 0);
		if (added < 0)
			return -1;
		sum += added;
	}

	was.src = p->key.src;
	was.dst = p->key.dst;
	now.src = same(&p->key.src, &answer.src) ? becomes.src : p->key.src;
	now.dst = becomes.dst;
	addrs = fold(sum_change(&was, &now, sizeof(was), 0));
	if (p->v6 ? write_pair(ctx, p->l3 + offsetof(struct ipv6hdr, saddr), 1, &now)
		  : write_pair(ctx, p->l3 + offsetof(struct iphdr, saddr), 0, &now) ||
			    fix(ctx, p->l3 + offsetof(struct iphdr, check), addrs, 0) < 0)
		return -1;
	if (fix(ctx, p->l4 + offsetof(struct icmp, check), p->v6 ? sum + addrs : sum, 0) < 0)
		return -1;
	p->key.src = now.src;
	p->key.dst = now.dst;
	return f->kind;
}
