// Package reconciler makes a host what the compiled files say: it observes the kernel, works out a plan, applies it, and
// observes again. It keeps no memory of its own: the kernel is the state.
//
//	desired ──┐
//	          ├─ Diff ──► resource.Plan ──► Apply ──► Verify: observed again, the plan must be empty
//	Observe ──┘
//
// Diff is pure. A plan's changes become steps (a replace is a delete and a create), and each step waits for the ones that
// it needs: steps.go holds all there is to know about order. Everything goes through THE table of kinds in kinds.go;
// nothing else here knows a kind.
package reconciler
