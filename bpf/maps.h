// The maps that programs and plumb share: keys, values, and nothing else. layout.go says the same in Go, and a test
// compares the two by BTF.
//
// An address is always 16 bytes, IPv4 as ::ffff:a.b.c.d, so one map serves both families. Ports are big endian, ids and
// counts little endian. Sizes are set when a map is made; the numbers here only stand in for them. What changes the
// layout of a map gets a new version in layout.go.
#pragma once
#include "kernel.h"

struct address {
	__be32 word[4];
};

// What clients talk to.
struct frontend_key {
	struct address addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

enum algorithm { RANDOM = 1, ROUND_ROBIN = 2, MAGLEV = 3 };

struct frontend {
	__u64 service;	// its id, a hash of the key
	__u32 slots;	// that new clients are given: 0..slots-1 of `slots`; 0: nobody answers
	__u32 affinity; // s; 0: none
	__u32 table;	// MAGLEV: element of the array of its class
	__u32 size;	// MAGLEV: slots of the table
	__u32 next;	// ROUND_ROBIN: counted up by the programs
	__u8 algorithm;
	__u8 class; // MAGLEV: which array
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC); // a reader never sees an entry that was given to another key meanwhile
	__uint(max_entries, 1);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
} frontends SEC(".maps");

// The backends of a service. A backend of weight 2 has two of the slots that are picked from (one with MAGLEV, whose
// table knows the weights); behind those stand, once each, the backends that get nothing new.
struct slot_key {
	__u64 service;
	__u32 slot;
	__u32 pad;
};

enum backend_state { ACTIVE = 1, TERMINATING = 2, MAINTENANCE = 3, DOWN = 4 };

struct backend {
	struct address addr;
	__u64 id; // a hash of address, port and protocol
	__be16 port;
	__u16 weight;
	__u8 state;
	__u8 pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct slot_key);
	__type(value, struct backend);
} slots SEC(".maps");

// Where an active backend of a service with affinity stands. A client whose backend isn't here gets another one.
struct member_key {
	__u64 service;
	__u64 backend;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct member_key);
	__type(value, __u32);
} members SEC(".maps");

// A client of a service with affinity: per packet its address, at the socket its network namespace's cookie.
struct affinity_key {
	__u64 service;
	struct address client;
};

struct affinity {
	__u64 backend;
	__u64 seen; // ns since boot
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
} affinities SEC(".maps");

// Maglev tables: an array for each class of sizes, one element is one table. A slot of a table is the number of a slot
// in `slots`. A table smaller than its class uses the first part of its element.
#define MAGLEV_CLASS(max) \
	struct maglev_##max { \
		__u64 inputs; \
		__u64 sum; \
		__u16 slot[(max + 3) / 4 * 4]; \
	}; \
	struct { \
		__uint(type, BPF_MAP_TYPE_ARRAY); \
		__uint(max_entries, 1); \
		__type(key, __u32); \
		__type(value, struct maglev_##max); \
	} maglev_##max##s SEC(".maps")

MAGLEV_CLASS(2039);
MAGLEV_CLASS(4093);
MAGLEV_CLASS(16381);
MAGLEV_CLASS(65521);
MAGLEV_CLASS(131071);

// The network namespaces of this node, by cookie: socket programs act for these alone.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u32);
} namespaces SEC(".maps");

// The pods of this node, by address.
enum attachment { VETH = 1, NETKIT = 2, BRIDGE = 3, MACVLAN = 4, IPVLAN_L2 = 5, IPVLAN_L3 = 6 };

struct endpoint {
	__u32 ifindex;	  // VETH, NETKIT, BRIDGE: the pair's end in the root namespace; else the uplink
	__u8 mac[6];	  // the pod's; 0 where it has none of its own
	__u8 host_mac[6]; // of the pair's end in the root namespace, which an IPVLAN_L3 may have too; else 0
	__u8 attach;
	__u8 pad;
	__u16 mtu; // the pod's, where what it gets waits for its limit in a queue of that end; else 0
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct address);
	__type(value, struct endpoint);
} endpoints SEC(".maps");

// How fast pods send, by address. What is sent from all addresses of a pod counts together, in the entry of one of
// them: the others only name it.
struct pace {
	struct bpf_spin_lock lock;
	__u32 pad;
	__u64 rate;	     // bit/s
	__u64 next;	     // ns since boot: when the pod may send again
	struct address with; // whose entry counts
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct address);
	__type(value, struct pace);
} paces SEC(".maps");

// MACs of macvlan pods: who sends from one must have a pod's address that belongs to it. The last two bytes are 0.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u32); // ifindex of the uplink
} macs SEC(".maps");

// The devices that lead out of the node, where packets from pods go to them past the stack, and come from them. Both
// ways ask for them, so that an entry switches both at once.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u32);   // ifindex
	__type(value, __u32); // its MTU
} uplinks SEC(".maps");

// Peers of sockets, by the socket's cookie, which no other socket gets as long as the kernel runs: what is left of a
// closed socket answers nobody, and makes room for others in time.
struct peer_key {
	__u64 cookie;	     // of the socket
	struct address addr; // 0: the peer that the socket is connected to
	__be16 port;	     // 0 likewise
	__u8 proto;
	__u8 pad[5];
};

struct peer {
	struct address addr; // frontend or backend
	__u64 service;
	__u64 backend; // 0: connected to nobody, for want of backends
	__be16 port;
	__u8 pad[6];
};

// How peers are named to the program. A connected socket, TCP or UDP, has one entry for what it believes to be
// connected to: {cookie, 0, 0, proto} -> frontend, with its service and backend. User space counts connections by
// these, and finds the UDP sockets of a backend that is gone. The entry goes when the socket is closed or connected
// elsewhere. What connect(AF_UNSPEC) leaves isn't asked for: nobody sees that call.
//
// UDP sockets, connected or not, have one for each backend that answers them, by what the kernel says who sent a
// datagram: {cookie, backend, port, UDP} -> frontend. It goes when the socket talks to the backend's own address.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct peer_key);
	__type(value, struct peer);
} sock_reverse SEC(".maps");

// {cookie, frontend, port, UDP} -> backend: all datagrams of an unconnected socket to a frontend go to one backend,
// until user space removes the entry because the backend is gone.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct peer_key);
	__type(value, struct peer);
} sock_forward SEC(".maps");

// Translated flows, per packet: one entry for each direction.
struct flow_key {
	struct address src;
	struct address dst;
	__be16 sport;
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

enum flow_kind {
	FORWARD = 1,	     // the destination becomes addr:port, the backend
	REVERSE = 2,	     // the source becomes addr:port, the frontend
	HAIRPIN_FORWARD = 3, // and the source becomes the frontend's address: the client is the backend
	HAIRPIN_REVERSE = 4, // and the destination becomes the source
	MASQUERADE = 5,	     // the source becomes addr:port, the node; of an ICMP echo the port is the id
	UNMASQUERADE = 6,    // the destination becomes addr:port, the pod
};

struct flow {
	struct address addr;
	__u64 service;
	__u64 backend;
	__u32 seen; // s since boot
	__be16 port;
	__u8 kind;
	__u8 state; // bits of enum flow_state
};

enum flow_state {
	ESTABLISHED = 1,
	FIN_FORWARD = 2,
	FIN_REVERSE = 4,
	RESET = 8,
	DISPUTED = 16, // REVERSE: a SYN with the same ports went to the backend itself
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

// Datagrams by which pods answer, from their own addresses, to who asked for these from outside. Anybody out there
// writes here, and not into `flows`: who asks a lot pushes out others who ask, and no flow.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct flow_key);
	__type(value, __u32); // s since boot
} asked SEC(".maps");

// What isn't masqueraded: destinations in these ranges, of pods, nodes and whatever the files name.
struct prefix {
	__u32 bits; // of IPv4 addresses 96 more
	struct address addr;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct prefix);
	__type(value, __u32);
} excluded SEC(".maps");

// Whose flows were ever translated: a byte for each hash of a service's or backend's address and port. What has none
// has no entry in `flows`, so that packets that have nothing to do with services are told apart without a lookup. Bits
// would need an operation that old kernels haven't got. This map is never made anew beside `flows`.
struct marks {
	__u8 of[1 << 17];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct marks);
} marked SEC(".maps");

// The ports of a packet's first fragment, for the others.
struct fragment_key {
	struct address src;
	struct address dst;
	__u32 id;
	__u8 proto;
	__u8 pad[3];
};

struct ports {
	__be16 sport;
	__be16 dport;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct fragment_key);
	__type(value, struct ports);
} fragments SEC(".maps");

// The timer that sweeps `flows` and `affinities`, and what came of it: programs alone write it.
struct swept {
	struct bpf_timer timer;
	__u64 at;      // ns since boot: when it last began
	__u64 took;    // ns
	__u64 deleted; // entries, since the map was made
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct swept);
} swept SEC(".maps");

// Packets by what became of them. Names for people are in layout.go.
enum counter {
	COUNT_FORWARDED,   // straight to a pod of this node
	COUNT_ROUTED,	   // from a pod to an uplink, past the stack
	COUNT_TRANSLATED,  // to or from a backend
	COUNT_SPOOFED,	   // dropped: not the sender's own address
	COUNT_NO_BACKEND,  // refused
	COUNT_INVALID,	   // dropped: its headers contradict themselves
	COUNT_NO_ROOM,	   // dropped: a map took no entry; or dropped or refused: the ports are another flow's
	COUNT_MASQUERADED, // to or from outside, by the node's address
	COUNT_RECEIVED,	   // by an uplink, as XDP counts them
	COUNT_TOO_FAST,	   // dropped: the limit of its pod would let it go too late
	COUNTERS,
};

struct counted {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, struct counted);
} counters SEC(".maps");
