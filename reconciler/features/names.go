package features

// What programs and maps can do, wherever they are attached.
const (
	BTF          Feature = "bpf.btf"          // the kernel's own types, for programs that fit any kernel
	GlobalData   Feature = "bpf.global-data"  // constants that are set when a program is loaded
	MapBatch     Feature = "bpf.map.batch"    // many entries in one call
	MapMmap      Feature = "bpf.map.mmap"     // arrays that can be read as memory
	MapLRUHash   Feature = "bpf.map.lru-hash" // tables that make room by themselves
	MapLPMTrie   Feature = "bpf.map.lpm-trie" // ranges of addresses
	MapRingBuf   Feature = "bpf.map.ringbuf"  // events for user space in order
	RedirectPeer Feature = "bpf.helper.redirect_peer"
	// RedirectNeigh fills in the link layer address of the next hop.
	RedirectNeigh  Feature = "bpf.helper.redirect_neigh"
	FIBLookup      Feature = "bpf.helper.fib_lookup"
	SkbSetTstamp   Feature = "bpf.helper.skb_set_tstamp"   // departure times for fq, in tc programs
	NetNSCookie    Feature = "bpf.helper.get_netns_cookie" // in socket programs
	NetNSCookieSkb Feature = "bpf.helper.get_netns_cookie.tc"
	Timers         Feature = "bpf.helper.timer"
	SetRetval      Feature = "bpf.helper.set_retval" // an errno of the program's choice, in socket programs
)

// Where programs can be attached. The cgroup hooks have the kernel's names.
const (
	Clsact        Feature = "bpf.clsact"          // tc programs on clsact, by netlink
	TCX           Feature = "bpf.tcx"             // tc programs as links
	NetkitAttach  Feature = "bpf.netkit"          // programs on netkit pairs
	XDPGeneric    Feature = "bpf.xdp.generic"     // XDP on any device, in the stack
	XDPNativeVeth Feature = "bpf.xdp.native-veth" // XDP in the driver, for veth
	LinkXDP       Feature = "bpf.link.xdp"        // XDP programs as links
	LinkCgroup    Feature = "bpf.link.cgroup"     // cgroup programs as links
	Cgroup2       Feature = "cgroup2"             // the unified cgroup hierarchy

	CgroupConnect4     Feature = "bpf.cgroup.connect4"
	CgroupConnect6     Feature = "bpf.cgroup.connect6"
	CgroupSendmsg4     Feature = "bpf.cgroup.sendmsg4"
	CgroupSendmsg6     Feature = "bpf.cgroup.sendmsg6"
	CgroupRecvmsg4     Feature = "bpf.cgroup.recvmsg4"
	CgroupRecvmsg6     Feature = "bpf.cgroup.recvmsg6"
	CgroupGetpeername4 Feature = "bpf.cgroup.getpeername4"
	CgroupGetpeername6 Feature = "bpf.cgroup.getpeername6"
	CgroupSockRelease  Feature = "bpf.cgroup.sock_release"
)

// What packet filtering there is.
const (
	NFT    Feature = "nft"     // nftables, family inet
	NFTNat Feature = "nft.nat" // source and destination NAT in family inet
	// NFTServices are maps with verdicts and with addresses, picking by chance and by hash, refusing before routing.
	NFTServices Feature = "nft.services"
	NFTNotrack  Feature = "nft.notrack" // sets of ranges, and keeping what they match out of the connection table
)

// What TCP can do.
const (
	BigTCP4 Feature = "bigtcp.ipv4" // packets above 64 KiB inside the host, IPv4
	BigTCP6 Feature = "bigtcp.ipv6" // packets above 64 KiB inside the host, IPv6
	TCPBBR  Feature = "tcp.bbr"     // congestion control BBR
)

// Queueing disciplines.
const (
	QdiscFQ      Feature = "qdisc.fq"
	QdiscFQCodel Feature = "qdisc.fq_codel"
	QdiscHTB     Feature = "qdisc.htb"
	QdiscTBF     Feature = "qdisc.tbf"
	QdiscClsact  Feature = "qdisc.clsact"
)
