// Connection tracking and translation.
#pragma once
#include "icmp.h"
#include "packet.h"

// s without a packet after which a flow is over.
enum timeout {
	SYN_TIMEOUT = 60,
	TCP_TIMEOUT = 6 * 3600,
	CLOSING_TIMEOUT = 10,
	UDP_TIMEOUT = 60,
	STREAM_TIMEOUT = 180, // UDP that was answered
};

enum {
	SYN_AGAIN = 1, // s within which a SYN is taken for the same as the one before
	TRIES = 3,     // of finding a backend that the client has no other flow with
};

static __always_inline __u32 now_s(void)
{
	return bpf_ktime_get_ns() / SECOND;
}

static __always_inline int is_closing(__u8 state)
{
	return state & RESET || (state & (FIN_FORWARD | FIN_REVERSE)) == (FIN_FORWARD | FIN_REVERSE);
}

static __always_inline __u32 timeout_of(__u8 proto, __u8 state)
{
	if (proto != IPPROTO_TCP)
		return state & ESTABLISHED ? STREAM_TIMEOUT : UDP_TIMEOUT;
	if (is_closing(state))
		return CLOSING_TIMEOUT;
	return state & ESTABLISHED ? TCP_TIMEOUT : SYN_TIMEOUT;
}

// Another processor may have written `seen` since the clock was read.
static __always_inline int is_over(__u8 proto, const struct flow *f, __u32 now)
{
	return (__s32)(now - f->seen) > (__s32)timeout_of(proto, f->state);
}

static __always_inline int is_forward(const struct flow *f)
{
	return f->kind == FORWARD || f->kind == HAIRPIN_FORWARD || f->kind == MASQUERADE;
}

static __always_inline int is_syn(const struct packet *p)
{
	return p->key.proto == IPPROTO_TCP && p->fragment != FRAGMENT_LATER &&
	       (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

// Whether a segment has all of some flags.
static __always_inline int has_flags(const struct packet *p, __u8 flags)
{
	return p->key.proto == IPPROTO_TCP && p->fragment != FRAGMENT_LATER && (p->tcp_flags & flags) == flags;
}

// The packets that answer to those with key k.
static __always_inline void answer_to(const struct flow_key *k, struct flow_key *answer)
{
	answer->src = k->dst;
	answer->dst = k->src;
	answer->sport = k->dport;
	answer->dport = k->sport;
	answer->proto = k->proto;
	memset(answer->pad, 0, sizeof(answer->pad));
}

// Whether the entries of a masqueraded flow, f for packets p and other for what answers, still lead to one another: one
// of them may have gone, and its key be another flow's.
static __always_inline int belong_together(const struct packet *p, const struct flow *f, const struct flow *other)
{
	if (f->kind == MASQUERADE)
		return same(&other->addr, &p->key.src) && other->port == p->key.sport;
	if (f->kind == UNMASQUERADE)
		return same(&other->addr, &p->key.dst) && other->port == p->key.dport;
	return 1;
}

// Writes to both entries of a flow what a packet says of it, p, which becomes t.
static inline __noinline int note(const struct packet *p, struct flow *f, const struct flow_key *t, __u32 now,
				  __u8 state)
{
	__u8 no_more = f->state & ~state;
	struct flow_key answer;
	struct flow *other;

	f->state = state;
	f->seen = now;
	answer_to(t, &answer);
	other = bpf_map_lookup_elem(&flows, &answer);
	if (other && !belong_together(p, f, other)) {
		// Another flow has the port of the node's, and this one can't be answered any more; or it has begun
		// anew by another one.
		bpf_map_delete_elem(&flows, &p->key);
	} else if (other) {
		other->state = (other->state & ~no_more) | (state & ~DISPUTED);
		other->seen = now;
		f->state |= other->state & ~DISPUTED;
	} else if ((is_forward(f) || f->kind == UNMASQUERADE) && !is_closing(state)) {
		// Where there are more flows than room, one of the two entries may have gone: what is left knows it.
		struct flow again = {
			.addr = p->key.dst,
			.port = p->key.dport,
			.service = f->service,
			.backend = f->backend,
			.seen = now,
			.kind = f->kind == FORWARD ? REVERSE : HAIRPIN_REVERSE,
			.state = state,
		};

		if (f->kind == MASQUERADE) {
			again.addr = p->key.src;
			again.port = p->key.sport;
			again.kind = UNMASQUERADE;
		} else if (f->kind == UNMASQUERADE) {
			again.kind = MASQUERADE;
		}
		bpf_map_update_elem(&flows, &answer, &again, BPF_NOEXIST);
	}
	return 0;
}

// Notes a packet of a flow: what changes its state, else one a second.
static __always_inline void track(const struct packet *p, struct flow *f, const struct flow_key *t, __u32 now)
{
	int forward = is_forward(f);
	__u8 state = f->state;

	if (p->key.proto == IPPROTO_TCP) {
		if (p->tcp_flags & TCP_FIN)
			state |= forward ? FIN_FORWARD : FIN_REVERSE;
		if (p->tcp_flags & TCP_RST)
			state |= RESET;
		else if (is_masqueraded(f) && has_flags(p, TCP_ACK) && !(p->tcp_flags & TCP_SYN))
			state &= ~RESET; // nobody took it: who did answers this with another one
	}
	if (!forward && !(state & RESET))
		state |= ESTABLISHED;
	if (state != f->state || now != f->seen)
		note(p, f, t, now, state);
}

// A number that tells flows apart, the same for all packets of one.
static __always_inline __u32 hash_of(const struct flow_key *k)
{
	__u64 h = (__u64)k->sport << 32 | (__u64)k->dport << 16 | k->proto;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		h = (h ^ k->src.word[i]) * 0x9e3779b97f4a7c15ULL;
		h ^= h >> 29;
		h = (h ^ k->dst.word[i]) * 0xbf58476d1ce4e5b9ULL;
		h ^= h >> 32;
	}
	return h ^ h >> 32;
}

// The byte of an address and port in map `marked`. It is there on every kernel: the map is an array.
static __always_inline __u8 *mark_of(const struct address *a, __be16 port)
{
	__u64 h = (__u64)(a->word[0] ^ a->word[2]) << 32 | (a->word[1] ^ a->word[3]);
	struct marks *marks;
	__u32 first = 0;

	h = (h + port) * 0x9e3779b97f4a7c15ULL >> 47;
	marks = bpf_map_lookup_elem(&marked, &first);
	return marks ? &marks->of[h] : 0;
}

static __always_inline void mark(const struct address *a, __be16 port)
{
	__u8 *m = mark_of(a, port);

	if (m && !*m)
		*m = 1;
}

// Whether there may be flows to or from an address and port.
static __always_inline int is_marked(const struct address *a, __be16 port)
{
	__u8 *m = mark_of(a, port);

	return m && *m;
}

// Forgets a flow by its entry for answers.
static __always_inline void forget_flow(const struct flow_key *answer, const struct flow *f)
{
	// A pod that reaches itself answers to the frontend's address.
	struct flow_key asked = {
		.src = f->kind == REVERSE ? answer->dst : answer->src,
		.dst = f->addr,
		.sport = answer->dport,
		.dport = f->port,
		.proto = answer->proto,
	};

	bpf_map_delete_elem(&flows, &asked);
	bpf_map_delete_elem(&flows, answer);
}

enum outcome {
	LEFT,	    // not for a service
	TRANSLATED, // the packet is what its flow says
	REFUSED,    // nobody answers for the service
	NO_ROOM,    // in the map, or for this flow beside another one
	BROKEN,	    // it can't be written to
};

// Begins a flow by a packet to a service, in the place of an older one, if that isn't 0: chooses a backend and enters
// the flow in the map, in both directions; what answers first, so that no answer is missed. t is what packets of the
// flow become; kind is how.
static inline __noinline int begin(const struct packet *p, const struct flow *older, struct flow_key *t, __u8 *kind)
{
	struct frontend_key at = {.addr = p->key.dst, .port = p->key.dport, .proto = p->key.proto};
	struct frontend *service = bpf_map_lookup_elem(&frontends, &at);
	struct flow f = {};
	struct flow_key answer;
	__u32 hash;

	if (!service || p->fragment == FRAGMENT_LATER || (p->key.proto == IPPROTO_TCP && p->tcp_flags & TCP_RST))
		return LEFT;
	if (older) {
		struct flow *answers;

		translated(&p->key, older, t);
		answer_to(t, &answer);
		answers = bpf_map_lookup_elem(&flows, &answer);
		// It may be another service's by now.
		if (answers && same(&answers->addr, &p->key.dst) && answers->port == p->key.dport)
			bpf_map_delete_elem(&flows, &answer);
	}
	f.service = service->service;
	f.seen = now_s();
	hash = hash_of(&p->key);
	for (int i = 0; i < TRIES; i++) {
		struct backend *b = choose(service, &p->key.src, hash + i);
		struct flow *taken;

		if (!b)
			return REFUSED;
		f.addr = b->addr;
		f.port = b->port;
		f.backend = b->id;
		f.kind = same(&b->addr, &p->key.src) ? HAIRPIN_FORWARD : FORWARD;
		translated(&p->key, &f, t);
		answer_to(t, &answer);
		mark(&p->key.dst, p->key.dport);
		mark(&t->dst, t->dport);
		*kind = f.kind;
		f.addr = p->key.dst;
		f.port = p->key.dport;
		f.kind = f.kind == FORWARD ? REVERSE : HAIRPIN_REVERSE;
		if (bpf_map_update_elem(&flows, &answer, &f, BPF_NOEXIST)) {
			// Two services may have one backend, and a client may use one port for both: the backend
			// couldn't tell them apart. Nothing says that a UDP flow is over, and mostly it is where the
			// client asks somebody else: a resolver uses any port again within minutes.
			taken = bpf_map_lookup_elem(&flows, &answer);
			if (taken && !is_over(p->key.proto, taken, f.seen) && !is_closing(taken->state) &&
			    !(same(&taken->addr, &p->key.dst) && taken->port == p->key.dport)) {
				if (i < TRIES - 1 || p->key.proto != IPPROTO_UDP)
					continue;
				forget_flow(&answer, taken);
			}
			if (bpf_map_update_elem(&flows, &answer, &f, BPF_ANY))
				return NO_ROOM;
		}
		f.addr = t->dst;
		f.port = t->dport;
		f.kind = *kind;
		return bpf_map_update_elem(&flows, &p->key, &f, BPF_ANY) ? NO_ROOM : TRANSLATED;
	}
	return NO_ROOM;
}

// Writes a port, which stands `at` bytes into its header: itself where that is where it mostly is, as that is a lot
// less.
static __always_inline int write_port(struct __sk_buff *ctx, const struct packet *p, __u32 at, __be16 port)
{
	__u32 plain = L3 + (p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	__be16 *there = (void *)(long)ctx->data + plain + at;

	if (p->l4 != plain || (void *)(there + 1) > (void *)(long)ctx->data_end)
		return bpf_skb_store_bytes(ctx, p->l4 + at, &port, sizeof(port), 0);
	*there = port;
	return 0;
}

// Writes another source or destination into a packet's IP header.
static __always_inline int set_address(struct __sk_buff *ctx, const struct packet *p, int source,
				       const struct address *from, const struct address *to)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (p->v6) {
		struct ipv6hdr *ip = data + L3;

		if ((void *)(ip + 1) > end)
			return -1;
		memcpy(source ? &ip->saddr : &ip->daddr, to, sizeof(*to));
	} else {
		struct iphdr *ip = data + L3;
		__u32 sum;

		if ((void *)(ip + 1) > end)
			return -1;
		sum = (__u16)~ip->check;
		sum += (__u16)~from->word[3] + (__u16) ~(from->word[3] >> 16);
		sum += (__u16)to->word[3] + (to->word[3] >> 16);
		ip->check = ~fold(sum);
		if (source)
			ip->saddr = to->word[3];
		else
			ip->daddr = to->word[3];
	}
	return 0;
}

// Gives a packet another source or destination. Addresses of a family only; checksums are corrected by difference, so
// that what a device or the receiver is to complete stays so.
static __always_inline int set_end(struct __sk_buff *ctx, const struct packet *p, int source, const struct address *to,
				   __be16 port)
{
	const struct address *from = source ? &p->key.src : &p->key.dst;
	__be16 old = source ? p->key.sport : p->key.dport;
	__u32 check = p->l4 + (p->key.proto == IPPROTO_TCP ? 16 : 6);
	// UDP's checksum may be left out, and is then 0.
	__u64 flags = p->key.proto == IPPROTO_TCP ? 0 : BPF_F_MARK_MANGLED_0;

	if (p->fragment != FRAGMENT_LATER) {
		if (p->v6) {
			__s64 change = sum_change(from, to, sizeof(*to), 0);

			if (bpf_l4_csum_replace(ctx, check, 0, change, flags | BPF_F_PSEUDO_HDR))
				return -1;
			// The sum over an IPv6 packet, which a device may have made, didn't change: no header has a
			// checksum of its own. The helper thinks otherwise.
			bpf_csum_update(ctx, change);
		} else if (bpf_l4_csum_replace(ctx, check, from->word[3], to->word[3], flags | BPF_F_PSEUDO_HDR | 4)) {
			return -1;
		}
		if (port != old &&
		    (bpf_l4_csum_replace(ctx, check, old, port, flags | 2) || write_port(ctx, p, source ? 0 : 2, port)))
			return -1;
	}
	return set_address(ctx, p, source, from, to);
}

// Makes a packet what its flow says, t. -1: it is broken, and has to be dropped.
static inline __noinline int rewrite(struct __sk_buff *ctx, const struct packet *p, const struct flow_key *t, __u8 kind)
{
	if (kind != REVERSE && set_end(ctx, p, 0, &t->dst, t->dport))
		return -1;
	if (kind != FORWARD && set_end(ctx, p, 1, &t->src, t->sport))
		return -1;
	return 0;
}
