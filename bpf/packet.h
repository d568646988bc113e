// One packet, as the programs of packet.c see it.
#pragma once
#include "backend.h"

struct packet {
	struct flow_key key; // of the packet as it came; ports are 0 where there are none. ICMP echo: both are its id
	__u32 l3;	     // offset of the IP header
	__u32 l4;	     // offset of what follows the IP header and its extensions
	__u32 fragment_id;   // as it stands in the header, where fragment isn't FRAGMENT_NONE
	__u8 v6;
	__u8 tcp_flags; // byte 13 of the TCP header
	__u8 icmp_type;
	__u8 fragment; // FRAGMENT_*
};

enum { FRAGMENT_NONE, FRAGMENT_FIRST, FRAGMENT_LATER };
