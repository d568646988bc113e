//go:build ignore

// Services at the socket: the kernel asks these programs where a socket's packets go, once for a connection or a
// connected UDP socket, else for each datagram. What they keep is in sock_reverse and sock_forward, see maps.h.
//
// They load from 4.19 on: no global data, no loops, and only helpers of that time, with two exceptions. ALL_NAMESPACES
// leaves out bpf_get_netns_cookie (5.7) and what came before it; bpf_set_retval is taken out by the loader where there
// is none.
#include "backend.h"

#define TCP	     6
#define UDP	     17
#define AF_INET	     2
#define AF_INET6     10
#define ECONNREFUSED 111

enum verdict { UNTOUCHED, TRANSLATED, REFUSED };

// The context is read and written in the fields' own sizes, from its own address: the compiler would merge, narrow and
// hoist accesses, which verifiers refuse.
#define GET(ctx, field) \
	({ \
		__u32 v; \
		asm volatile("%0 = *(u32 *)(%1 + %2)" \
			     : "=r"(v) \
			     : "r"(ctx), "i"(__builtin_offsetof(typeof(*(ctx)), field))); \
		v; \
	})
#define SET(ctx, field, value) \
	asm volatile("*(u32 *)(%0 + %1) = %2" \
		     : \
		     : "r"(ctx), "i"(__builtin_offsetof(typeof(*(ctx)), field)), "r"((__u32)(value)) \
		     : "memory")

static __always_inline void get4(struct bpf_sock_addr *ctx, struct address *addr, __be16 *port)
{
	ipv4(addr, GET(ctx, user_ip4));
	*port = GET(ctx, user_port);
}

static __always_inline void set4(struct bpf_sock_addr *ctx, const struct address *addr, __be16 port)
{
	SET(ctx, user_ip4, addr->word[3]);
	SET(ctx, user_port, port);
}

static __always_inline void get6(struct bpf_sock_addr *ctx, struct address *addr, __be16 *port)
{
	addr->word[0] = GET(ctx, user_ip6[0]);
	addr->word[1] = GET(ctx, user_ip6[1]);
	addr->word[2] = GET(ctx, user_ip6[2]);
	addr->word[3] = GET(ctx, user_ip6[3]);
	*port = GET(ctx, user_port);
}

static __always_inline void set6(struct bpf_sock_addr *ctx, const struct address *addr, __be16 port)
{
	SET(ctx, user_ip6[0], addr->word[0]);
	SET(ctx, user_ip6[1], addr->word[1]);
	SET(ctx, user_ip6[2], addr->word[2]);
	SET(ctx, user_ip6[3], addr->word[3]);
	SET(ctx, user_port, port);
}

// Whether the socket is in a namespace of this node. The namespace is the client that affinity goes by.
static __always_inline int ours(struct bpf_sock_addr *ctx, struct address *client)
{
#ifndef ALL_NAMESPACES
	__u64 cookie = bpf_get_netns_cookie(ctx);

	memcpy(client, &cookie, sizeof(cookie));
	return bpf_map_lookup_elem(&namespaces, &cookie) != 0;
#else
	return 1;
#endif
}

// Cookies are counted up: the product spreads them over all 32 bits.
static __always_inline __u32 hash(__u64 cookie)
{
	return cookie * 0x9e3779b97f4a7c15ULL >> 32;
}

// What was known of a peer that the socket now talks to under its own address.
static __always_inline void forget(const struct peer_key *peer)
{
	if (bpf_map_lookup_elem(&sock_reverse, peer))
		bpf_map_delete_elem(&sock_reverse, peer);
}

// 0 if the call that is under way will fail with ECONNREFUSED once the program returns 0.
static __always_inline long refuse(void)
{
	return bpf_set_retval(-ECONNREFUSED);
}

// connect() to `to`, which becomes the backend.
static __always_inline enum verdict connected(struct bpf_sock_addr *ctx, struct frontend_key *to)
{
	struct peer_key socket = {.cookie = bpf_get_socket_cookie(ctx), .proto = to->proto};
	struct peer_key peer = {.cookie = socket.cookie, .proto = to->proto};
	struct peer as = {.addr = to->addr, .port = to->port};
	struct frontend *f = bpf_map_lookup_elem(&frontends, to);
	struct address client = {};

	if (!f || !ours(ctx, &client)) {
		forget(&socket);
		if (to->proto == UDP) {
			peer.addr = to->addr;
			peer.port = to->port;
			forget(&peer);
		}
		return UNTOUCHED;
	}
	struct backend *b = choose(f, &client, hash(socket.cookie));
	if (b) {
		to->addr = b->addr;
		to->port = b->port;
		as.backend = b->id;
	} else {
		if (!refuse())
			return REFUSED;
		// The kernel knows only EPERM. On the loopback nobody listens at TCP port 0, for nobody can, and at UDP
		// port 1: TCP is refused at once, UDP by the answer to the first datagram. (Connected to UDP port 0 a
		// socket counts as not connected.)
		if (is_ipv4(&to->addr)) {
			to->addr.word[3] = bpf_htonl(0x7f000001);
		} else {
			to->addr = (struct address){};
			to->addr.word[3] = bpf_htonl(1);
		}
		to->port = to->proto == UDP ? bpf_htons(1) : 0;
	}
	as.service = f->service;
	bpf_map_update_elem(&sock_reverse, &socket, &as, BPF_ANY);
	if (to->proto == UDP) {
		peer.addr = to->addr;
		peer.port = to->port;
		bpf_map_update_elem(&sock_reverse, &peer, &as, BPF_ANY);
	}
	return TRANSLATED;
}

// Whether a datagram that has a destination only goes where its socket is connected to: those of a dual-stack socket to
// IPv4 come like this. connect6 has chosen.
static __always_inline int only_connected(struct bpf_sock_addr *ctx, const struct peer_key *peer)
{
	if (!is_ipv4(&peer->addr) || GET(ctx, family) != AF_INET6)
		return 0;
#ifndef ALL_NAMESPACES
	struct bpf_sock *sk = ctx->sk;

	// Both are 0 in a socket that isn't connected.
	return sk && GET(sk, dst_ip4) == peer->addr.word[3] && (__be16)GET(sk, dst_port) == peer->port;
#else
	// The socket itself is out of sight. After connect(AF_UNSPEC) this takes it for connected still.
	struct peer_key socket = {.cookie = peer->cookie, .proto = peer->proto};
	struct peer *to = bpf_map_lookup_elem(&sock_reverse, &socket), *from;

	if (!to)
		return 0;
	from = bpf_map_lookup_elem(&sock_reverse, peer);
	return from && from->backend == to->backend;
#endif
}

// A datagram of an unconnected socket to `to`, which becomes the backend.
static __always_inline enum verdict sent(struct bpf_sock_addr *ctx, struct frontend_key *to)
{
	struct peer_key peer = {
		.cookie = bpf_get_socket_cookie(ctx), .addr = to->addr, .port = to->port, .proto = to->proto};
	struct peer as = {.addr = to->addr, .port = to->port};
	struct peer *known;
	struct frontend *f;

	if (only_connected(ctx, &peer))
		return UNTOUCHED;
	f = bpf_map_lookup_elem(&frontends, to);
	if (!f) {
		forget(&peer);
		return UNTOUCHED;
	}
	as.service = f->service;
	known = bpf_map_lookup_elem(&sock_forward, &peer);
	if (known) {
		to->addr = known->addr;
		to->port = known->port;
		as.backend = known->backend;
	} else {
		struct address client = {};

		if (!ours(ctx, &client))
			return UNTOUCHED;
		struct backend *b = choose(f, &client, hash(peer.cookie));
		if (!b) {
			refuse(); // EPERM where the kernel knows nothing better
			return REFUSED;
		}
		struct peer behind = {.addr = b->addr, .port = b->port, .service = f->service, .backend = b->id};

		to->addr = b->addr;
		to->port = b->port;
		as.backend = b->id;
		bpf_map_update_elem(&sock_forward, &peer, &behind, BPF_ANY);
	}
	// Answers may come as long as datagrams go: the entry may have been evicted, or be another service's.
	peer.addr = to->addr;
	peer.port = to->port;
	known = bpf_map_lookup_elem(&sock_reverse, &peer);
	if (!known || known->service != as.service)
		bpf_map_update_elem(&sock_reverse, &peer, &as, BPF_ANY);
	return TRANSLATED;
}

// The frontend that the program knows a peer by, or 0.
static __always_inline struct peer *known_as(struct bpf_sock_addr *ctx, struct peer_key *peer)
{
	peer->cookie = bpf_get_socket_cookie(ctx);
	return bpf_map_lookup_elem(&sock_reverse, peer);
}

#define TO_BACKEND(name, v, verdict_of) \
	SEC("cgroup/" #name #v) \
	int name##v(struct bpf_sock_addr *ctx) \
	{ \
		__u32 proto = GET(ctx, protocol); \
		struct frontend_key to = {.proto = proto}; \
\
		if (proto != TCP && proto != UDP) \
			return 1; \
		get##v(ctx, &to.addr, &to.port); \
		switch (verdict_of(ctx, &to)) { \
		case TRANSLATED: \
			set##v(ctx, &to.addr, to.port); \
			return 1; \
		case REFUSED: \
			return 0; \
		default: \
			return 1; \
		} \
	}

TO_BACKEND(connect, 4, connected)
TO_BACKEND(connect, 6, connected)
TO_BACKEND(sendmsg, 4, sent)
TO_BACKEND(sendmsg, 6, sent)

// Who sent a datagram.
#define RECEIVED(v) \
	SEC("cgroup/recvmsg" #v) \
	int recvmsg##v(struct bpf_sock_addr *ctx) \
	{ \
		struct peer_key peer = {.proto = UDP}; \
		struct peer *as; \
\
		get##v(ctx, &peer.addr, &peer.port); \
		as = known_as(ctx, &peer); \
		if (as) \
			set##v(ctx, &as->addr, as->port); \
		return 1; \
	}

RECEIVED(4)
RECEIVED(6)

// Whom a socket is connected to.
#define NAMED(v) \
	SEC("cgroup/getpeername" #v) \
	int getpeername##v(struct bpf_sock_addr *ctx) \
	{ \
		struct peer_key socket = {.proto = GET(ctx, protocol)}; \
		struct peer *as = known_as(ctx, &socket); \
\
		if (as) \
			set##v(ctx, &as->addr, as->port); \
		return 1; \
	}

NAMED(4)
NAMED(6)

SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	struct peer_key peer = {.cookie = bpf_get_socket_cookie(ctx), .proto = GET(ctx, protocol)};

	if (!bpf_map_lookup_elem(&sock_reverse, &peer))
		return 1;
	bpf_map_delete_elem(&sock_reverse, &peer);
	if (peer.proto != UDP)
		return 1;
	if (GET(ctx, family) == AF_INET) {
		ipv4(&peer.addr, GET(ctx, dst_ip4));
	} else {
		peer.addr.word[0] = GET(ctx, dst_ip6[0]);
		peer.addr.word[1] = GET(ctx, dst_ip6[1]);
		peer.addr.word[2] = GET(ctx, dst_ip6[2]);
		peer.addr.word[3] = GET(ctx, dst_ip6[3]);
	}
	peer.port = GET(ctx, dst_port);
	bpf_map_delete_elem(&sock_reverse, &peer);
	return 1;
}

char _license[] SEC("license") = "GPL";
