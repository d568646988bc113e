//go:build ignore

// Services, same-host forwarding and the source check, per packet.
#include "backend.h"

// The node's settings; they are set when the programs are loaded.
const volatile __u32 services;	   // 1: translate
const volatile __u32 redirect;	   // 1: send packets for pods of this node straight to them
const volatile __u32 source_check; // 1: drop what a pod sends from an address that isn't its own

SEC("tc")
int from_pod(struct __sk_buff *ctx)
{
	return -1;
}

char _license[] SEC("license") = "GPL";
