// Package reconciler makes a host what the compiled files say: it observes the kernel, works out a plan, applies it, and
// observes again. It keeps no memory of its own: the kernel is the state.
//
//	desired ──┐
//	          ├─ Diff ──► resource.Plan ──► Apply ──► Verify: observed again, the plan must be empty
//	Observe ──┘
//
// Everything goes through THE table of kinds in kinds.go. Nothing else here knows a kind, but for two things: the host must
// be told of adopted namespaces before it is looked at, and an apply that may be taken back leaves namespaces, programs and
// maps. What the files hold:
//
//	reconciler_linux.go  the functions that others call
//	observe.go wanted.go what is on the host
//	only_linux.go        the same for single objects
//	diff*.go             the changes between both states, as a plan
//	steps.go ready.go    the order of the changes, see below
//	apply.go             running the steps in parallel, and verifying
//	refuse.go saved.go   what keeps a plan from being applied; plans in files
//	record.go            what is on the host as a state to come back to, in bytes
//	back_linux.go        coming back to it, and dropping what was left for that
//
// Of services there may be tens of thousands: their kind is a Matcher, which compares while it looks, so that nothing is
// made of those that are as they should be. Observed.All makes it where all are asked for. And it is a Looker: who knows
// that one service alone changed, as when a backend fails, has that one looked at, changed and verified by ConvergeOnly.
// That too starts from what is there; but nothing else is mended by it.
//
// # How a plan is ordered
//
// Changes become steps, each one call of a kind's Ops: a create, an update, a delete; a replace is a delete and a create.
// What the kernel takes along (Change.With) has no delete of its own: the step that removes the other object counts as
// its. Each step has the list of those that must be done before it:
//
//   - Parents first. What an object needs (After and DiesWith) is built before it, and removed after it.
//   - Moving out. An update that takes an object away from something that goes is done before that goes.
//   - Claims. Two objects can't have one device name, or give one parent two modes: the step that lets go of a claim
//     (or the name of a device) comes before every step that takes it with another value.
//   - Heirs. What takes over from another object, a map of another size, is made before that goes, and before what is in it
//     goes.
//   - Switches. What puts to work all that others do together, the way past the stack in both directions, comes when they are
//     all as they are to be, and goes before any of them changes.
//   - Founders. What others on the same device rely on without naming it, addresses, is built before them: the kernel
//     refuses a route over a gateway that no address reaches.
//   - Adds before deletes. A delete that no other step waits for comes last: when nothing that adds is possible or under way
//     any more; and in any case after the adds on the same device: with its last IPv4 address a device loses its IPv4 routes.
//
// Rules of many with many meet at a barrier, a step that does nothing, which needs n+m edges and not n*m. Among the steps
// that are possible the order is adds first, then pod by pod, so that each pod's cut is short; running in parallel, the
// workers take them in that order too. A step that fails skips those that wait for it, and no other.
//
// The steps may wait for each other in a circle. When pods change from macvlan to ipvlan, the host's routes to them move to
// a new device; that can't be made while the old one has the uplink, and the old one waits for the routes to move away.
// Then what was to move out goes along with its old place, as if it were replaced with it, and the plan is made again. A
// circle without a move is a mistake in the state, and the error names the objects on it.
//
// To see an order, look at testdata, where each file is a plan between two states of diff_test.go (this circle is
// claims.txt). go test ./reconciler compares them, -update writes what comes out, and real_linux_test.go does it all on
// the kernel, which needs root.
package reconciler
