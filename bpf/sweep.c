//go:build ignore

// Takes what is over out of the maps that programs fill, now and then, with nobody in user space: a timer of the
// kernel's (5.15). It lives in map `swept`, as long as that is pinned; the program is run once to wind it up, and once
// more by a newer program that takes over.
#include "flow.h"

const volatile __u32 period = 10000; // ms between two sweeps

// A sweep goes over all of a map at once and holds up its processor meanwhile: it takes at most this part of its time.
#define SHARE 1000

#define CLOCK_MONOTONIC 1

#define ENOENT 2
#define EBUSY  16

struct sweep {
	__u64 now;     // ns since boot
	__u64 longest; // affinity that any service has, ns
	__u64 deleted;
};

static long flow_over(void *map, struct flow_key *key, struct flow *f, struct sweep *s)
{
	if (is_over(key->proto, f, s->now / SECOND) && !bpf_map_delete_elem(&flows, key))
		s->deleted++;
	return 0;
}

static long longest_affinity(void *map, struct frontend_key *key, struct frontend *f, struct sweep *s)
{
	if (f->affinity * SECOND > s->longest)
		s->longest = f->affinity * SECOND;
	return 0;
}

// No service is known by its id alone, but what no service keeps any longer is over for all.
static long affinity_over(void *map, struct affinity_key *key, struct affinity *a, struct sweep *s)
{
	// Another processor may have written `seen` since the clock was read.
	if ((__s64)(s->now - a->seen) > (__s64)s->longest && !bpf_map_delete_elem(&affinities, key))
		s->deleted++;
	return 0;
}

static int again(void *map, __u32 *key, struct swept *swept)
{
	struct sweep s = {.now = bpf_ktime_get_ns()};
	__u64 pause = period * (SECOND / 1000);

	bpf_for_each_map_elem(&flows, flow_over, &s, 0);
	bpf_for_each_map_elem(&frontends, longest_affinity, &s, 0);
	bpf_for_each_map_elem(&affinities, affinity_over, &s, 0);
	swept->at = s.now;
	swept->took = bpf_ktime_get_ns() - s.now;
	swept->deleted += s.deleted;
	if (swept->took * SHARE > pause)
		pause = swept->took * SHARE;
	bpf_timer_start(&swept->timer, pause, 0);
	return 0;
}

SEC("tc")
int sweep(struct __sk_buff *ctx)
{
	__u32 only = 0;
	struct swept *s = bpf_map_lookup_elem(&swept, &only);
	long err;

	if (!s)
		return -ENOENT;
	err = bpf_timer_init(&s->timer, &swept, CLOCK_MONOTONIC);
	if (err && err != -EBUSY) // busy: it was done before
		return err;
	err = bpf_timer_set_callback(&s->timer, again);
	if (err)
		return err;
	return bpf_timer_start(&s->timer, 0, 0);
}

char _license[] SEC("license") = "GPL";
