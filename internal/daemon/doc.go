// Package daemon keeps a node what its files say, whatever happens: `plumb run`.
//
//	files ──────┐                    ┌─ candidate ─ Refuse ─► in force ─► revision
//	kernel ─────┤                    │
//	health ─────┼─► wake ─► cycle ───┤
//	timer ──────┤                    └─ observe ─ diff ─ apply ─ again, until nothing is left to do
//	API ────────┘
//
// Every cycle is the same as an apply: what is done follows from what is observed. What the daemon remembers is what should
// be (in force, candidate), what can't be done (backoff), and what to tell (status), never what is.
//
//	daemon.go     Options, Run: what wakes it
//	cycle.go      one cycle: whose turn is it, which configuration counts
//	source.go     from files to a candidate; broken files leave in force what is
//	reconcile.go  observe, diff, apply, verify
//	look.go       how much of the node a cycle looks at
//	backoff.go    objects that fail, one by one; pure
//	drift.go      what others changed, in words
//	suspend.go    suspend and resume
//	status.go     what it says of itself
//	metrics.go    the same for Prometheus
//	notify.go     and for systemd
//
// # Which configuration counts
//
// The files, if they compile and what they change may be changed (Refuse, as for an apply). If not, what was in force
// stays. A daemon that starts takes the newest revision first, which needs no files; on a node that is at work already it
// reads the files first, so that a restart changes nothing. What others apply, from other files or by a rollback, leaves a
// revision that the daemon didn't write: that is in force until the files change again.
package daemon
