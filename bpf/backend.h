// The choice of a backend, the same at the socket and per packet.
#pragma once
#include "maps.h"

#define SECOND 1000000000ULL

// An IPv4 address is ::ffff:a.b.c.d.
static __always_inline void ipv4(struct address *a, __be32 v4)
{
	a->word[0] = 0;
	a->word[1] = 0;
	a->word[2] = bpf_htonl(0xffff);
	a->word[3] = v4;
}

static __always_inline int is_ipv4(const struct address *a)
{
	return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == bpf_htonl(0xffff);
}

#define MAGLEV_PICK(max) \
	do { \
		struct maglev_##max *t = bpf_map_lookup_elem(&maglev_##max##s, &f->table); \
		if (t && at < max) \
			return t->slot[at]; \
	} while (0)

// The slot of a table that a hash falls on. A table that isn't there gives slot 0.
static __always_inline __u32 maglev_slot(const struct frontend *f, __u32 hash)
{
	__u64 at = f->size ? hash % f->size : 0;

	// No table has more slots. The verifier wants to see that on the register that is used.
	asm volatile("%0 &= 0x1ffff" : "+r"(at));
	switch (f->class) {
	case 0:
		MAGLEV_PICK(2039);
		break;
	case 1:
		MAGLEV_PICK(4093);
		break;
	case 2:
		MAGLEV_PICK(16381);
		break;
	case 3:
		MAGLEV_PICK(65521);
		break;
	case 4:
		MAGLEV_PICK(131071);
		break;
	}
	return 0;
}

// A backend of a service for a client, or 0. hash tells flows apart, the same for all packets of one.
static __always_inline struct backend *choose(struct frontend *f, const struct address *client, __u32 hash)
{
	struct slot_key slot = {.service = f->service};
	struct affinity_key who = {.service = f->service};
	__u64 now = 0;

	if (!f->slots)
		return 0;
	if (f->affinity) {
		struct affinity *a;

		who.client = *client;
		now = bpf_ktime_get_ns();
		a = bpf_map_lookup_elem(&affinities, &who);
		if (a && now - a->seen < f->affinity * SECOND) {
			struct member_key member = {.service = f->service, .backend = a->backend};
			__u32 *at = bpf_map_lookup_elem(&members, &member);

			if (at) {
				struct backend *b;

				slot.slot = *at;
				b = bpf_map_lookup_elem(&slots, &slot);
				if (b && b->id == a->backend) {
					a->seen = now;
					return b;
				}
			}
		}
	}
	switch (f->algorithm) {
	case ROUND_ROBIN:
		// Two at once may get the same one: an atomic that returns its value needs a newer kernel.
		slot.slot = f->next++ % f->slots;
		break;
	case MAGLEV:
		slot.slot = maglev_slot(f, hash);
		break;
	default:
		slot.slot = bpf_get_prandom_u32() % f->slots;
	}
	struct backend *b = bpf_map_lookup_elem(&slots, &slot);
	if (!b) {
		// The service is being changed: the first slot is written first and removed last.
		slot.slot = 0;
		b = bpf_map_lookup_elem(&slots, &slot);
		if (!b)
			return 0;
	}
	if (f->affinity) {
		struct affinity chosen = {.backend = b->id, .seen = now};

		bpf_map_update_elem(&affinities, &who, &chosen, BPF_ANY);
	}
	return b;
}
