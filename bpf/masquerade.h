// Masquerading: what pods send out through an uplink gets the node's address and a port of it, and what comes back the
// pod's. The host's stack, its routes and its firewall see the pod's address both ways.
#pragma once
#include "flow.h"
#include "forward.h"
#include "fragment.h"

// Settings of the node, as those in forward.h.
const volatile __u32 masquerade;       // 1: masquerade what pods send out
const volatile __u32 masquerade_drain; // 1: translate the flows that there are, and begin no other
// The node's addresses, as headers have them; 0: none.
const volatile __u32 masquerade4;
const volatile __u32 masquerade6_0, masquerade6_1, masquerade6_2, masquerade6_3;

// Ports that the kernel gives to none of the node's own connections, unless net.ipv4.ip_local_port_range says
// otherwise.
enum {
	FIRST_PORT = 1024,
	LAST_PORT = 32767,
	PORT_TRIES = 32,
};

static __always_inline int node_address(__u8 v6, struct address *a)
{
	if (!v6) {
		ipv4(a, masquerade4);
		return masquerade4 != 0;
	}
	a->word[0] = masquerade6_0;
	a->word[1] = masquerade6_1;
	a->word[2] = masquerade6_2;
	a->word[3] = masquerade6_3;
	return (a->word[0] | a->word[1] | a->word[2] | a->word[3]) != 0;
}

static __always_inline int is_echo_protocol(const struct packet *p)
{
	return p->key.proto == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

enum echo { ECHO_REQUEST, ECHO_REPLY };

static __always_inline int is_echo(const struct packet *p, enum echo which)
{
	__u8 request = p->v6 ? 128 : 8, reply = p->v6 ? 129 : 0;

	return is_echo_protocol(p) && p->icmp_type == (which == ECHO_REPLY ? reply : request);
}

// Whether a packet has ports, or the id of such an echo, which is as good. Those of fragments are found out. Who asks
// and who is asked may have one id: a flow's requests go one way alone, and its replies the other.
static __always_inline int has_port_or_id(struct packet *p, enum echo which)
{
	if (p->key.proto != IPPROTO_TCP && p->key.proto != IPPROTO_UDP &&
	    !(is_echo_protocol(p) && (p->fragment == FRAGMENT_LATER || is_echo(p, which))))
		return 0;
	return p->fragment == FRAGMENT_NONE || !fragment_ports(p);
}

static __always_inline int is_excluded(const struct address *a)
{
	struct prefix whole = {.bits = 128, .addr = *a};

	return bpf_map_lookup_elem(&excluded, &whole) != 0;
}

// Whether a socket of the node's takes what answers to a packet: a server that listens, or a connection.
static __always_inline int is_nodes_own(struct __sk_buff *ctx, const struct flow_key *answer, __u8 v6)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	__u32 size;

	if (v6) {
		memcpy(tuple.ipv6.saddr, &answer->src, 16);
		memcpy(tuple.ipv6.daddr, &answer->dst, 16);
		tuple.ipv6.sport = answer->sport;
		tuple.ipv6.dport = answer->dport;
		size = sizeof(tuple.ipv6);
	} else {
		tuple.ipv4.saddr = answer->src.word[3];
		tuple.ipv4.daddr = answer->dst.word[3];
		tuple.ipv4.sport = answer->sport;
		tuple.ipv4.dport = answer->dport;
		size = sizeof(tuple.ipv4);
	}
	if (answer->proto == IPPROTO_TCP)
		sk = bpf_sk_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else if (answer->proto == IPPROTO_UDP)
		sk = bpf_sk_lookup_udp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		return 0;
	if (!sk)
		return 0;
	bpf_sk_release(sk);
	return 1;
}

// Takes a port away from a flow, by its entry for answers. What others of that flow are still under way goes as it is:
// the flow is over. Of two processors that do this at once one wins.
static __always_inline int take_over(const struct flow_key *answer, const struct flow *f)
{
	struct flow_key sent = {
		.src = f->addr,
		.dst = answer->src,
		.sport = f->port,
		.dport = answer->proto == IPPROTO_TCP || answer->proto == IPPROTO_UDP ? answer->sport : f->port,
		.proto = answer->proto,
	};

	struct flow *theirs = bpf_map_lookup_elem(&flows, &sent);

	// The pod may have begun anew by the same port of its own, and goes by another one of the node's now.
	if (theirs && theirs->kind == MASQUERADE && same(&theirs->addr, &answer->dst) && theirs->port == answer->dport)
		bpf_map_delete_elem(&flows, &sent);
	return !bpf_map_delete_elem(&flows, answer);
}

// Forgets what answers to a flow that is over, unless another flow has got its port.
static __always_inline void forget_answer(const struct flow_key *sent, const struct flow *f)
{
	struct flow_key t, answer;
	struct flow *answers;

	translated(sent, f, &t);
	answer_to(&t, &answer);
	answers = bpf_map_lookup_elem(&flows, &answer);
	if (answers && answers->kind == UNMASQUERADE && same(&answers->addr, &sent->src) &&
	    answers->port == sent->sport)
		bpf_map_delete_elem(&flows, &answer);
}

// Begins a flow: finds a port of the node's that no other flow to the same destination has, or one whose flow is over,
// or, if all are in use, one whose connection was closed longest ago. t is what packets of the flow become.
static __noinline int begin_masquerade(struct __sk_buff *ctx, const struct packet *p, struct flow_key *t)
{
	struct flow f = {.kind = UNMASQUERADE, .addr = p->key.src, .port = p->key.sport, .seen = now_s()};
	__u32 oldest = 0, age = 0;
	struct flow_key answer;

	*t = p->key;
	if (!node_address(p->v6, &t->src))
		return LEFT;
	for (int i = 0; i <= PORT_TRIES; i++) {
		__u32 port = FIRST_PORT + bpf_get_prandom_u32() % (LAST_PORT - FIRST_PORT + 1);
		struct flow *taken;

		if (i == PORT_TRIES) {
			if (!oldest)
				break;
			port = oldest;
		}
		t->sport = bpf_htons(port);
		if (t->proto != IPPROTO_TCP && t->proto != IPPROTO_UDP)
			t->dport = t->sport;
		answer_to(t, &answer);
		if (bpf_map_update_elem(&flows, &answer, &f, BPF_NOEXIST)) {
			taken = bpf_map_lookup_elem(&flows, &answer);
			if (!taken || taken->kind != UNMASQUERADE)
				continue;
			if (i < PORT_TRIES && !is_over(answer.proto, taken, f.seen)) {
				__u32 since = f.seen - taken->seen + 1;

				if (is_closing(taken->state) && since > age) {
					age = since;
					oldest = port;
				}
				continue;
			}
			if (!take_over(&answer, taken) || bpf_map_update_elem(&flows, &answer, &f, BPF_NOEXIST))
				continue;
		}
		if (is_nodes_own(ctx, &answer, p->v6)) {
			bpf_map_delete_elem(&flows, &answer);
			continue;
		}
		f.kind = MASQUERADE;
		f.addr = t->src;
		f.port = t->sport;
		if (!bpf_map_update_elem(&flows, &p->key, &f, BPF_ANY))
			return TRANSLATED;
		bpf_map_delete_elem(&flows, &answer);
		return NO_ROOM;
	}
	return NO_ROOM;
}

// Gives an ICMP echo another source or destination and another id.
static __always_inline int set_echo(struct __sk_buff *ctx, const struct packet *p, int source, const struct address *to,
				    __be16 id)
{
	const struct address *from = source ? &p->key.src : &p->key.dst;
	__u32 check = p->l4 + offsetof(struct icmp, check);

	if (p->fragment != FRAGMENT_LATER) {
		if (p->v6) {
			__s64 change = sum_change(from, to, sizeof(*to), 0);

			if (bpf_l4_csum_replace(ctx, check, 0, change, BPF_F_PSEUDO_HDR))
				return -1;
			bpf_csum_update(ctx, change); // see set_end()
		}
		if (bpf_l4_csum_replace(ctx, check, p->key.sport, id, 2) ||
		    bpf_skb_store_bytes(ctx, p->l4 + offsetof(struct icmp, rest), &id, sizeof(id), 0))
			return -1;
	}
	return set_address(ctx, p, source, from, to);
}

// Makes a packet what its flow says, t. -1: it is broken, and has to be dropped.
static __noinline int rewrite_masqueraded(struct __sk_buff *ctx, const struct packet *p, const struct flow_key *t,
					  int source)
{
	const struct address *to = source ? &t->src : &t->dst;
	__be16 port = source ? t->sport : t->dport;

	if (p->key.proto != IPPROTO_TCP && p->key.proto != IPPROTO_UDP)
		return set_echo(ctx, p, source, to, port);
	return set_end(ctx, p, source, to, port);
}

static __always_inline int masquerade_error(struct __sk_buff *ctx, struct packet *p)
{
	int kind = icmp_error(ctx, p, 1);

	if (kind < 0)
		return drop(ctx, COUNT_INVALID);
	if (kind)
		count(ctx, COUNT_MASQUERADED);
	return PASS;
}

// A connection that begins anew by the ports of one that was closed goes by the same port of the node's.
static __always_inline void reopen(struct flow *f, const struct flow_key *t)
{
	struct flow_key answer;
	struct flow *other;

	f->state = 0;
	answer_to(t, &answer);
	other = bpf_map_lookup_elem(&flows, &answer);
	if (other && other->kind == UNMASQUERADE)
		other->state = 0;
}

// Whether a packet answers to somebody outside who asked for the pod by its own address.
static __always_inline int is_asked(const struct packet *p, __u32 now)
{
	__u32 *seen;

	if (p->key.proto != IPPROTO_UDP)
		return 0;
	seen = bpf_map_lookup_elem(&asked, &p->key);
	return seen && (__s32)(now - *seen) <= STREAM_TIMEOUT;
}

// Gives what a pod sends out the node's address. A segment of a connection that no flow is known of began before, or
// from outside, and goes as it is; so do protocols without ports.
static __always_inline int masquerade_egress(struct __sk_buff *ctx)
{
	struct packet p = {};
	struct endpoint *own;
	struct flow_key t;
	struct flow *f;
	__u32 now;

	if (ctx->vlan_present || parse(ctx, &p) != PARSED)
		return PASS;
	if (is_icmp_error(&p))
		return masquerade_error(ctx, &p);
	own = bpf_map_lookup_elem(&endpoints, &p.key.src);
	if (!own || !is_pair(own) || !has_port_or_id(&p, ECHO_REQUEST))
		return PASS;
	f = bpf_map_lookup_elem(&flows, &p.key);
	now = now_s();
	if (f && !is_over(p.key.proto, f, now)) {
		if (f->kind != MASQUERADE)
			return PASS; // it answers
		translated(&p.key, f, &t);
		if (is_syn(&p) && is_closing(f->state))
			reopen(f, &t);
		track(&p, f, &t, now);
	} else {
		if (f && f->kind == MASQUERADE)
			forget_answer(&p.key, f);
		if (!masquerade || p.fragment == FRAGMENT_LATER ||
		    !(p.key.proto == IPPROTO_UDP || is_syn(&p) || is_echo(&p, ECHO_REQUEST)) || is_asked(&p, now) ||
		    is_excluded(&p.key.dst))
			return PASS;
		switch (begin_masquerade(ctx, &p, &t)) {
		case LEFT:
			return PASS;
		case NO_ROOM:
			return drop(ctx, COUNT_NO_ROOM);
		}
	}
	if (rewrite_masqueraded(ctx, &p, &t, 1))
		return drop(ctx, COUNT_INVALID);
	count(ctx, COUNT_MASQUERADED);
	return PASS;
}

// Remembers that somebody outside asks a pod by its own address: the answer must come from there. TCP shows by itself
// who began; and a source that isn't masqueraded to in any case takes no room in the map.
static __always_inline void note_asked(struct packet *p)
{
	struct endpoint *pod = bpf_map_lookup_elem(&endpoints, &p->key.dst);
	__u32 now = now_s(), *seen;
	struct flow_key answer;

	if (!pod || !is_pair(pod) || is_excluded(&p->key.src) || !has_port_or_id(p, ECHO_REQUEST))
		return;
	answer_to(&p->key, &answer);
	seen = bpf_map_lookup_elem(&asked, &answer);
	if (!seen)
		bpf_map_update_elem(&asked, &answer, &now, BPF_ANY);
	else if (*seen != now)
		*seen = now;
}

// What has ports comes back. It has a stack of its own, as icmp_error() takes much of one.
static __noinline int masquerade_back(struct __sk_buff *ctx, struct packet *p)
{
	struct address own;
	struct flow_key t;
	struct flow *f;
	__u32 now;

	if (!node_address(p->v6, &own))
		return PASS;
	if (!same(&p->key.dst, &own)) {
		if (masquerade && p->key.proto == IPPROTO_UDP)
			note_asked(p);
		return PASS;
	}
	if (!has_port_or_id(p, ECHO_REPLY) || bpf_ntohs(p->key.dport) < FIRST_PORT ||
	    bpf_ntohs(p->key.dport) > LAST_PORT)
		return PASS;
	f = bpf_map_lookup_elem(&flows, &p->key);
	now = now_s();
	if (!f || f->kind != UNMASQUERADE || is_over(p->key.proto, f, now))
		return PASS;
	translated(&p->key, f, &t);
	track(p, f, &t, now);
	if (rewrite_masqueraded(ctx, p, &t, 0))
		return drop(ctx, COUNT_INVALID);
	p->key = t;
	count(ctx, COUNT_MASQUERADED);
	return PASS;
}

// Gives what comes back to the node for a pod the pod's address. p becomes what the packet is then.
static __always_inline int masquerade_ingress(struct __sk_buff *ctx, struct packet *p)
{
	if (ctx->pkt_type)
		return PASS; // another host's, or a child's: the device takes all there is
	return is_icmp_error(p) ? masquerade_error(ctx, p) : masquerade_back(ctx, p);
}
