//go:build ignore

// The earliest place that a packet passes on its way in: before the stack has anything to keep of it (native), or right
// after (generic). The program counts what comes by an uplink, and lets all of it pass.
#include "maps.h"

SEC("xdp.frags")
int uplink_xdp(struct xdp_md *ctx)
{
	__u32 what = COUNT_RECEIVED;
	struct counted *c = bpf_map_lookup_elem(&counters, &what);
	__s64 len = bpf_xdp_get_buff_len(
		ctx); // of all parts of a packet; before 5.18 there is one, and this call is a failed one

	if (len < 0)
		len = (void *)(long)ctx->data_end - (void *)(long)ctx->data;
	if (c) {
		c->packets++;
		c->bytes += len;
	}
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
