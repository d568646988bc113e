// Package host holds the handles to one host: its root network namespace, the namespaces of its pods, and the folders that
// plumb keeps. It is the only way that kinds of objects reach the kernel.
//
//	host_linux.go     Host: opening, namespaces by pod, announcing writes, records that a crash can't tear
//	entries_linux.go  whose namespace has a name, and which are looked into
//	ns_linux.go       NS: cached dumps of one namespace, single look-ups, requests, threads that visit it
//	conn_linux.go     one rtnetlink socket
//	links_linux.go    devices, as dumps and look-ups show them
//	qdiscs_linux.go   queueing disciplines
//	tables_linux.go   addresses, routes, neighbours and rules
//	bpffs_linux.go    the node's folder of the BPF file system
//	maps_linux.go     the maps that are pinned there, open
//	bpfobj_linux.go   the programs and links that are, and what is attached, by bare calls of the kernel
//	cookie_linux.go   the cookies of namespaces, which programs know them by
//	join_linux.go     the node's cgroup
//	kept_linux.go     what kinds keep in memory
//	folder_linux.go   the folder where namespaces have their names
//	warn*_linux.go    what else on the machine stops pods: firewalls, filters, other daemons
//
// Dumps are kept until Host.Forget; whoever has written something and needs to know how it is now asks with a method that
// says so (Link, Device), or forgets. Every write to the kernel or the disk is announced by Host.Wrote just before it:
// that is how the tests count writes, and how they kill plumb in front of any of them. A namespace lives as long as
// somebody has a socket in it, so handles are closed as soon as it is another's or is to go (Drop).
//
// The tests need root and make namespaces of their own by package kindtest: go test ./internal/host. The agreement of the
// dumps with the netlink library's is one of them, and so is that a closed host holds no descriptor.
package host
