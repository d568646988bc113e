package compiler

import (
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
)

// setting is something that the files may leave to plumb.
type setting struct {
	// subject is the field's path, with NAME for the pod's.
	subject string
	// doc says what it is about, for people.
	doc string
	// options are its values, the best one first.
	options []option
	// others judges values that no option names; nil: there are none.
	others *others
	// refused is how an error begins that says no to a value: a format with a place for the value.
	refused string
	// neither is what such an error says where no other option can be had, and nothing how one begins that says so of auto.
	neither, nothing string
}

// option is one value of a setting, and what it asks for.
type option struct {
	value string
	needs []features.Feature // all of them
	// either are features of which one is enough.
	either []features.Feature
	// unfit says why circumstances rule it out; "" if they don't. nil: they never do. unless says it in general.
	unfit  func(*situation) string
	unless string
	// why is the reason to choose it; of one that auto never takes, why not.
	why   string
	never bool
	// beside is the option that auto takes as well where it can be had, and besides its reason to.
	beside, besides string
	// limits says what it does less well here, or "".
	limits func(*situation) string
}

// others are the values of a setting that depend on the machine.
type others struct {
	what   string // they are, for people
	unfit  func(*situation, string) string
	limits func(*situation) string
}

// situation is what options are judged by.
type situation struct {
	set        *features.Set
	node       *node
	services   []*service
	inPod      bool   // it is about a pod's namespace
	way        string // of services, once it is chosen
	masquerade string // what masquerades, once it is chosen
	straight   bool   // pods of the node reach each other past its stack
	fair       bool   // the uplinks have fq
	placed     bool   // irqAffinity places interrupts
	asked      []asked
	learnt     int64 // bytes of the maps that fill by themselves
	left       bool  // the files leave it to plumb
	// uplink is what an attachment would sit on, or the device that the setting is about; "" for none.
	uplink string
	// held is the attachment that other pods have on the uplink: the kernel takes no second one there.
	held string
}

// The settings that have a place in the code of their own.
const (
	podAttach       = "pods.NAME.attach"
	routingServices = "routing.services"
	masquerading    = "routing.masquerade"
	hostRouting     = "routing.hostRouting"
	algorithm       = "services.NAME.algorithm"
	tuningMTU       = "tuning.mtu"
	bigTCP          = "tuning.bigTCP"
	tuningMaps      = "tuning.maps"
	hostProfile     = "tuning.host.profile"
	hostGovernor    = "tuning.host.cpuGovernor"
	hostIRQBalance  = "tuning.host.irqbalance"
	hostAffinity    = "tuning.host.irqAffinity.DEVICE"
	hostRings       = "tuning.host.rings.DEVICE"
	hostCoalesce    = "tuning.host.coalesce.DEVICE"
	conntrackBypass = "tuning.conntrackBypass"
	tuningXDP       = "tuning.xdp"

	bandwidthManager = "tuning.bandwidthManager"

	congestionControl = "tuning.congestionControl"
)

// deviceHooks attach programs to devices.
var deviceHooks = []features.Feature{features.TCX, features.Clsact}

// settings is the table that everything is chosen by: plan and status show its sentences, and docs/choices.md is made of
// it. "auto" takes the first option that the kernel has and nothing rules out; any other word is a requirement.
var settings = []setting{
	{
		// Attachments whose packets to other hosts the node takes up itself stand first, because it can route, masquerade and
		// limit those. Of ipvlan's modes l2 stands first, because l3 reaches pods of other attachments only by a veth pair.
		subject: podAttach,
		doc:     "How a pod is attached to its node. Pods of one uplink that are left to plumb get the same attachment.",
		neither: "no other attachment works either",
		options: []option{
			{value: "veth", needs: []features.Feature{features.LinkVeth},
				why: "the shortest path on which the node routes, can masquerade and limit what other hosts send and get, and it works on any uplink; " + shorter},
			{value: "netkit", needs: []features.Feature{features.LinkNetkit},
				why: "the node routes, can masquerade and limit what other hosts send and get, and it works on any uplink; " + shorter},
			{value: "macvlan", needs: []features.Feature{features.LinkMacvlan}, unfit: wired,
				unless: "the uplink is Wi-Fi, or pods of another attachment sit on it",
				why:    "the shortest path on a wired uplink"},
			{value: "ipvlan-l2", needs: []features.Feature{features.LinkIPvlanL2}, unfit: sits("ipvlan-l2"),
				unless: "pods of another attachment sit on the uplink",
				why:    "it works on any uplink, as pods share the uplink's MAC"},
			{value: "ipvlan-l3", needs: []features.Feature{features.LinkIPvlanL3}, unfit: sits("ipvlan-l3"),
				unless: "pods of another attachment sit on the uplink",
				why:    "it works on any uplink, as pods share the uplink's MAC, and a veth pair leads to pods of other attachments"},
			{value: "bridge", needs: []features.Feature{features.LinkBridge, features.LinkVeth}, never: true,
				why: "it is a pair and a bridge, so never shorter than a pair alone"},
		},
	},
	{
		subject: routingServices,
		doc:     "What leads connections to services to their backends. auto takes socket and packet together where both can be had.",
		refused: "services can't be carried by %s",
		neither: "nor by any other way",
		nothing: "services can't be carried",
		options: []option{
			{value: waySocket, needs: []features.Feature{
				features.Cgroup2, features.CgroupConnect4, features.CgroupConnect6, features.CgroupSendmsg4, features.CgroupSendmsg6,
				features.CgroupRecvmsg4, features.CgroupRecvmsg6, features.MapLRUHash,
			}, why: "connections are led to backends when they are made, at no cost for their packets",
				beside: wayPacket, besides: "what no socket hook sees is translated on the pods' links", limits: socketLimits},
			{value: wayPacket, needs: []features.Feature{features.GlobalData, features.MapLRUHash}, either: deviceHooks,
				why: "packets are translated on the pods' links"},
			{value: wayNftables, needs: []features.Feature{features.NFTNat, features.NFTServices},
				why: "the kernel's own address translation", limits: nftablesLimits},
		},
	},
	{
		subject: masquerading,
		doc: "Whose address pods have where they leave by an uplink: the node's, but for what they send to pods, nodes and " +
			"routing.masqueradeExclude. If left out they have their own everywhere, as with off. What began before goes on as it began: " +
			"connections that bpf carries survive every change but that the field is left out again; those that nftables carries end with nftables, which the plan " +
			"announces where there are any, and --allow-disruption allows.",
		refused: "masquerade can't be %s",
		options: []option{
			{value: masqueradeBPF, needs: []features.Feature{features.GlobalData, features.MapLRUHash, features.MapLPMTrie},
				either: deviceHooks, unfit: atUplink,
				unless: "the node has several uplinks, or nodes.NAME.addresses lacks an address of a family that pods have, or net.ipv4.ip_local_port_range begins below 32768",
				why:    "translated at the uplink, by the first of nodes.NAME.addresses, so that no packet needs the kernel's connection table", limits: leaveByThemselves},
			{value: masqueradeNftables, needs: []features.Feature{features.NFTNat}, unfit: anyUplink, unless: "the node names no uplink",
				why: "the kernel's own address translation, by the uplink's address; every packet of pods is tracked for it", limits: leaveByThemselves},
			{value: masqueradeOff, why: "pods are seen outside by their own addresses, so the network must know the way back to them"},
		},
	},
	{
		subject: hostRouting,
		doc: "Which way packets of pods on veth, netkit and bridge take on their node: past its stack, or through it. Those of macvlan and " +
			"ipvlan pods take neither. What bpf leads past the stack no rule of the node's own sees: neither what filters forwarded packets nor what " +
			"translates their addresses or encrypts them (IPsec). So auto is legacy where others have such rules; tables that are empty don't count. " +
			"Who adds the first rule later gets legacy by the next plan.",
		options: []option{
			{value: "bpf", needs: []features.Feature{features.GlobalData, features.RedirectPeer, features.RedirectNeigh}, either: deviceHooks,
				unfit: stacked, unless: "nftables carries the services or masquerades, or, for auto, others have rules that forwarded packets pass, of " +
					"nftables or legacy iptables, or IPsec policies",
				why: "packets of pods go straight to each other and to the uplinks; the node's own forward rules, address translation and " +
					"connection table see none of them, and legacy keeps those",
				limits: withoutUplinks},
			{value: "legacy", why: "packets of pods go through the node's stack, where its firewall sees them"},
		},
	},
	{
		subject: algorithm,
		doc:     "How the clients of a service are shared out among its backends.",
		options: []option{
			{value: resource.Random, why: "it shares out evenly and keeps no state"},
			{value: resource.RoundRobin, never: true, why: "it counts, which random needn't, and shares out no better over time"},
			{value: resource.Maglev, never: true, unfit: notByNftables, unless: "nftables carries the services",
				why: "its tables take memory, and most services don't need clients to stay where they are when backends come and go"},
		},
	},
	{
		subject: conntrackBypass,
		doc: "Whether the kernel's connection table is spared what pods send each other and the nodes, by their addresses in the files. " +
			"What two nodes send each other, and what leaves for elsewhere, is tracked.",
		options: []option{
			{value: "on", needs: []features.Feature{features.NFTNotrack}, unfit: tracking,
				unless: "nftables carries the services, or routing.hostRouting isn't legacy and the node has all uplinks that it names, one at least; " +
					"for auto also if somebody else's rules translate addresses",
				why: "what pods and nodes send each other takes no room in the connection table; all else is tracked"},
			{value: "off", why: "the kernel tracks what passes its stack, where anything asks it to"},
		},
	},
	{
		subject: bandwidthManager,
		doc: "How what pods send is kept to their limits (pods.NAME.bandwidth.egress). A limit of what a pod gets (ingress) is kept by qdisc " +
			"tbf at the root namespace's end of its pair, whatever is chosen here; macvlan and ipvlan pods can't have one. Limits count " +
			"whole frames, as the device does, and change while the pods run. If no pod has a limit nothing is done but where this is on: " +
			"then the uplinks have fq.",
		options: []option{
			{value: "on", needs: []features.Feature{features.QdiscFQ, features.GlobalData}, either: deviceHooks, unfit: fair,
				unless: "the node names no uplink that the machine has, or, for auto, an uplink has a qdisc that somebody configured",
				why: "packets are told when they may leave, and qdisc fq of the uplinks keeps them until then, out of the pods' reach; " +
					"what stays on the node isn't limited"},
			{value: "off", needs: []features.Feature{features.QdiscTBF},
				why: "qdisc tbf of a pod's own device holds back all that it sends by it; who may configure devices in the pod can take it away"},
		},
	},
	{
		subject: congestionControl,
		doc: "How TCP keeps from flooding a path: for the node's own connections and those of its pods, of which each can have " +
			"another (pods.NAME.congestionControl). auto leaves what the kernel has.",
		refused: "congestion control can't be %q",
		options: []option{
			{value: "bbr", needs: []features.Feature{features.TCPBBR}, never: true, unfit: bbrInPod,
				unless: "the pod's namespace may not have it", limits: bbrLimits,
				why: "it goes by the path's rate and not by what is lost, which is better over long or lossy paths and takes more than its share on others"},
		},
		others: &others{what: "names that net.ipv4.tcp_available_congestion_control lists, such as cubic; for pods tcp_allowed_congestion_control",
			unfit: knownCongestion},
	},
	{
		subject: tuningMTU,
		doc: "The largest packet, in bytes: of the uplinks, whose network must carry it, and of pods that name no mtu. If left out the " +
			"uplinks stay as they are, and such pods have 1500, or what their uplink carries if that is less.",
		refused: "mtu can't be %s",
		others:  &others{what: "numbers that every uplink's driver takes", unfit: tooLarge, limits: jumbo},
	},
	{
		subject: bigTCP,
		doc: "Packets above 64 KiB inside the host (BIG TCP): on the uplinks and on the devices of all pods, while they run. If left " +
			"out every device stays as it is.",
		options: []option{
			{value: "on", either: []features.Feature{features.BigTCP4, features.BigTCP6}, unfit: cut,
				unless: "an uplink's driver cuts no larger packets", limits: oneFamily,
				why: "what TCP sends goes through the host in fewer and larger packets, of up to 192 KiB"},
			{value: "off", why: "packets inside the host stay as large as they are"},
		},
	},
	{
		subject: tuningXDP,
		doc: "Where a program runs that counts what comes in by each uplink (`received` in status) and lets it pass. If left out nothing is " +
			"touched. A program of somebody else's on an uplink is a conflict, unless this is off.",
		options: []option{
			{value: bpflink.Native, unfit: nativeXDP, unless: "an uplink's driver has no native XDP, or, for auto, nobody knows",
				why: "the driver runs the program before the stack has anything to do with a packet", limits: driverXDP},
			{value: bpflink.Generic, never: true, needs: []features.Feature{features.XDPGeneric}, unfit: genericXDP,
				unless: "there is no such device",
				why:    "by then the stack has taken the packet, so the program takes time and can spare none"},
			{value: xdpOff, why: "nothing comes before the stack"},
		},
	},
	{
		subject: tuningMaps,
		doc: "How large the eBPF maps are. `ratio` is the part of the memory for those that fill by themselves with what clients do and forget " +
			"what wasn't used for longest: 0.0025 if left out. `services` is how many services there is room for: 65536 if left out, fewer on machines " +
			"with less than 4 GiB, but not below 4096; such maps take memory for what is in them. Maps of connections change their sizes without losing any.",
		refused: "maps can't be of %s",
		others: &others{what: "a ratio of up to 1 and a number of services, apart or together; chosen is what the maps take, at most",
			unfit: tooMuch},
	},
	{
		subject: hostProfile,
		doc:     "A set of kernel settings of the root namespace; see below.",
		options: []option{
			{value: "network-latency", never: true, why: "looking into queues takes processor time that others could have"},
			{value: "network-throughput", never: true, limits: preemption,
				why: "large buffers take memory, and only fast paths that are long need them"},
		},
	},
	{
		subject: hostGovernor,
		doc: "How the machine's processors find their frequency, all of them alike. If left out nothing is changed; auto takes " +
			"performance where it can be had.",
		options: []option{
			{value: "performance", unfit: func(s *situation) string { return governed(s, "performance") },
				unless: "the machine's processors can't all have it", why: "a processor that is at its highest frequency already answers soonest"},
			{value: "off", why: "the processors keep the governor that they have"},
		},
		others: &others{what: "the governors that all processors of the machine can have, such as schedutil", unfit: governed},
	},
	{
		subject: hostIRQBalance,
		doc: "The service that moves interrupts between processors. If left out, as with auto, it is stopped where irqAffinity places " +
			"interrupts, and else stays as it is.",
		options: []option{
			{value: "off", unfit: guest, unless: "the network namespace isn't the machine's own", why: undone},
			{value: "on", never: true, unfit: func(s *situation) string {
				if s.placed {
					return undone
				}
				return guest(s)
			}, unless: "irqAffinity places interrupts", why: "where nothing is placed it stays as it is"},
		},
	},
	{
		subject: hostAffinity,
		doc: "Which processors serve an uplink: each of its interrupts goes to one of them, in turn. Where these don't reach all " +
			"of them, as it has fewer receive queues, the kernel spreads what they take in (RPS); several transmit queues are shared out likewise " +
			"(XPS). If left out nothing is changed.",
		refused: "irqAffinity can't be %q",
		options: []option{
			{value: spread, never: true, unfit: servable, unless: "nothing is known of the device, or it isn't an uplink",
				why: "all processors that run, or those near to the device where the machine says which; a program such as irqbalance may place them better"},
		},
		others: &others{what: "lists of processors, such as 0-3,6", unfit: listed},
	},
	{
		subject: hostRings,
		doc: "How many packets an uplink can hold for the host (rx), and the host for it (tx). Larger rings lose fewer packets in bursts and make " +
			"them wait longer. A driver may take the link down to change them. If left out nothing is changed.",
		refused: "rings can't be %s",
		others:  &others{what: "numbers up to what the driver takes", unfit: noRings},
	},
	{
		subject: hostCoalesce,
		doc: "How long an uplink's interrupts wait for more packets: rxUsecs and txUsecs µs, or until there are rxFrames or txFrames; with " +
			"adaptiveRx and adaptiveTx the driver finds it by itself. Short waits answer sooner and take more of the processor. If left out nothing is changed.",
		refused: "coalesce can't be %s",
		others:  &others{what: "numbers that the driver takes, which is seen when they are set and read back", unfit: noCoalesce},
	},
}
