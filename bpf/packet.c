//go:build ignore

// Services, same-host forwarding and the source check, per packet. See doc.go for what runs where.
#include "forward.h"
#ifndef NO_SERVICES
#include "flow.h"
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

// What comes to a pod through the stack, its bridge or its uplink: answers get the name of who was asked.
static __always_inline int arrive(struct __sk_buff *ctx)
{
	struct packet p = {};
	struct flow_key t;

	if (parse(ctx, &p) != PARSED)
		return PASS;
	if (is_icmp_error(&p)) {
		int kind = icmp_error(ctx, &p);

		if (kind < 0)
			return drop(ctx, COUNT_INVALID);
		if (kind)
			count(ctx, COUNT_TRANSLATED);
		return PASS;
	}
	if (!has_ports(&p))
		return PASS;
	switch (translate_answer(ctx, &p, &t)) {
	case BROKEN:
		return drop(ctx, COUNT_INVALID);
	case TRANSLATED:
		count(ctx, COUNT_TRANSLATED);
	}
	return PASS;
}
#endif

// Ingress of the root namespace's end of a pod's pair.
SEC("tc")
int from_pod(struct __sk_buff *ctx)
{
	struct sender sender = {.ifindex = ctx->ifindex};
	struct endpoint *own, *to;
	struct packet p = {};

	switch (parse(ctx, &p)) {
	case INVALID:
		return drop(ctx, COUNT_INVALID);
	case NOT_IP:
		return source_check && !is_own_frame(ctx, &sender) ? drop(ctx, COUNT_SPOOFED) : PASS;
	case PARSED:
		break;
	}
	own = bpf_map_lookup_elem(&endpoints, &p.key.src);
	if (source_check && !is_own(ctx, &p, &sender, own))
		return drop(ctx, COUNT_SPOOFED);
	to = bpf_map_lookup_elem(&endpoints, &p.key.dst);
#ifndef NO_SERVICES
	int straight = goes_straight(ctx, &p, to);

	if (ctx->vlan_present)
		return PASS;
	if (is_icmp_error(&p)) {
		// As below: an answer is translated here only if nobody else will.
		if (!to || straight) {
			int kind = icmp_error(ctx, &p);

			if (kind < 0)
				return drop(ctx, COUNT_INVALID);
			if (kind) {
				count(ctx, COUNT_TRANSLATED);
				if (kind == HAIRPIN_FORWARD || kind == HAIRPIN_REVERSE)
					return turn(ctx, 0);
				to = endpoint_of(&p.key.dst);
			}
		}
	} else if (has_ports(&p)) {
		struct flow_key t;
		__u8 kind = 0;

		if (to) {
			if (may_begin(&p) && forget(&p))
				return refuse_taken(ctx, &p, 0);
			// What doesn't go straight is translated next to the client: in the stack it has the
			// addresses that its routes are for.
			if (straight)
				switch (translate_answer(ctx, &p, &t)) {
				case BROKEN:
					return drop(ctx, COUNT_INVALID);
				case TRANSLATED:
					count(ctx, COUNT_TRANSLATED);
				}
		} else {
			switch (translate_to_service(ctx, &p, 1, &t, &kind)) {
			case LEFT:
				return may_begin(&p) && forget(&p) ? refuse_taken(ctx, &p, 0) : PASS;
			case REFUSED:
				count(ctx, COUNT_NO_BACKEND);
				return refuse(ctx, &p, 0);
			case NO_ROOM:
				return drop(ctx, COUNT_NO_ROOM);
			case BROKEN:
				return drop(ctx, COUNT_INVALID);
			}
			count(ctx, COUNT_TRANSLATED);
			if (kind == HAIRPIN_FORWARD || kind == HAIRPIN_REVERSE)
				return turn(ctx, 0);
			to = endpoint_of(&t.dst);
			// On one bridge, the way around the gateway is the bridge's own.
			if (to && own && to->attach == BRIDGE && own->attach == BRIDGE && !goes_straight(ctx, &p, to)) {
				bpf_skb_store_bytes(ctx, 0, to->mac, 6, 0);
				return PASS;
			}
		}
	}
#endif
	return goes_straight(ctx, &p, to) ? send_straight(ctx, &p, to) : PASS;
}

#ifndef NO_SERVICES
// Egress of the root namespace's end of a pod's pair.
SEC("tc")
int to_pod(struct __sk_buff *ctx)
{
	return arrive(ctx);
}

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
		.family = p->v6 ? 10 : 2,
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
		int known = icmp_error(ctx, &p);

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
#endif

// What goes through an uplink, either way, from one of the MACs of our pods.
static __always_inline int check_child(struct __sk_buff *ctx)
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

SEC("tc")
int uplink_ingress(struct __sk_buff *ctx)
{
	return check_child(ctx);
}

// Children of ipvlan send with the uplink's own MAC, as the node does. What the node didn't forward, and has the
// address of a pod that doesn't live on this uplink, is an ipvlan pod's doing.
SEC("tc")
int uplink_egress(struct __sk_buff *ctx)
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

char _license[] SEC("license") = "GPL";
