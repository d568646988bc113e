// Checksums of headers that programs write themselves.
#pragma once
#include "kernel.h"

// The start of every ICMP message, of either version. The kernel's own headers of it need those of a C library.
struct icmp {
	__u8 type;
	__u8 code;
	__u16 check;
	__u32 rest;
};

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

// The sum of n bytes, a multiple of 4 and a constant, and of what was summed before.
static __always_inline __u32 sum_of(const void *bytes, __u32 n, __u32 before)
{
	return bpf_csum_diff(0, 0, (__be32 *)bytes, n, before);
}

// What a sum changes by where n bytes, a multiple of 4 and a constant, were others.
static __always_inline __u32 sum_change(const void *from, const void *to, __u32 n, __u32 before)
{
	return bpf_csum_diff((__be32 *)from, n, (__be32 *)to, n, before);
}

// A checksum after a change of what it is about.
static __always_inline __u16 changed(__u16 checksum, __u32 change)
{
	return ~fold(fold(change) + (__u16)~checksum);
}
