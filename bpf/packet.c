//go:build ignore

// Services, same-host forwarding and the source check, per packet: pods' pairs here, pods' own devices in child.h,
// uplinks in uplink.h. See doc.go for what runs where.
#include "forward.h"
#include "route.h"
#include "uplink.h"
#ifndef NO_SERVICES
#include "child.h"
#include "translate.h"
#endif

// Ingress of the root namespace's end of a pod's pair.
SEC("tc")
int from_pod(struct __sk_buff *ctx)
{
	struct sender sender = {.ifindex = ctx->ifindex};
	struct endpoint *own, *to;
	struct packet p = {};
	const struct address *dst = &p.key.dst;

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
	int straight = goes_straight(ctx, &p, to) && !is_queued(to); // and past its to_pod
	struct flow_key t;

	if (ctx->vlan_present)
		return PASS;
	if (is_icmp_error(&p)) {
		// As below: an answer is translated here only if nobody else will.
		if (!to || straight) {
			int kind = icmp_error(ctx, &p, 0);

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
				if (may_begin(&p) && forget(&p))
					return refuse_taken(ctx, &p, 0);
				break;
			case REFUSED:
				count(ctx, COUNT_NO_BACKEND);
				return refuse(ctx, &p, 0);
			case NO_ROOM:
				return drop(ctx, COUNT_NO_ROOM);
			case BROKEN:
				return drop(ctx, COUNT_INVALID);
			case TRANSLATED:
				count(ctx, COUNT_TRANSLATED);
				if (kind == HAIRPIN_FORWARD || kind == HAIRPIN_REVERSE)
					return turn(ctx, 0);
				dst = &t.dst;
				to = endpoint_of(dst);
			}
			// On one bridge, the way around the gateway is the bridge's own.
			if (to && own && to->attach == BRIDGE && own->attach == BRIDGE && !goes_straight(ctx, &p, to)) {
				bpf_skb_store_bytes(ctx, 0, to->mac, 6, 0);
				return PASS;
			}
		}
	}
#endif
	if (goes_straight(ctx, &p, to))
		return send_straight(ctx, &p, to);
	return to || !host_routing ? PASS : leave(ctx, &p, own, dst);
}

#ifndef NO_SERVICES
// Egress of the root namespace's end of a pod's pair.
SEC("tc")
int to_pod(struct __sk_buff *ctx)
{
	return arrive(ctx);
}
#endif

char _license[] SEC("license") = "GPL";
