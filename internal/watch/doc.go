// Package watch tells when something may have changed: the files of a repository, and what others do to the kernel. It
// only wakes: what really changed is found out by reading the files, and by observing the kernel.
//
//	files.go          Files: a repository's folders, settled
//	walk.go           what a repository consists of, with the folders to watch, and its sum
//	busy_linux.go     whether somebody still writes
//	kernel_linux.go   Kernel: netlink sockets that hear of every namespace that is told to them
//	event_linux.go    which messages of the kernel matter, and what they say
//	nsid_linux.go     the numbers by which those sockets know namespaces
//	folder_linux.go   names of namespaces and pins, which have no netlink events
//
// Both watchers may speak up for nothing and never keep quiet about what they watch: where the kernel drops events, for want
// of memory, they report that everything may have changed. What has no event at all (most of sysctls, entries of BPF maps)
// is found by the daemon's periodic look.
package watch
