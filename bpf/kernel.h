// What the programs use of the kernel's headers.
#pragma once
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#ifndef memcpy
#define memcpy(to, from, n) __builtin_memcpy((to), (from), (n))
#endif
#ifndef memset
#define memset(to, c, n) __builtin_memset((to), (c), (n))
#endif
