package resource

// The marks that say "this is plumb's", one place for all kinds. Users and other tools rely on them.
const (
	Group       = 0x706c       // link group ("pl")
	Protocol    = 112          // protocol of routes, rules, neighbours and addresses
	Table       = 112          // routing table of adopted namespaces
	QdiscMajor  = 0x706c       // qdisc handle major number
	NftTable    = "plumb"      // nft table, family inet
	AliasPrefix = "plumb:"     // link alias "plumb:NODE/POD", for people
	NetNSDir    = "/run/netns" // where namespaces are named
)

// Gateway addresses that routed pods see; no device holds them, permanent neighbour entries answer.
const (
	Gateway4 = "169.254.10.24"
	Gateway6 = "fe80::1"
)
