package reconciler

import (
	"context"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/addr"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/reconciler/resource/bpfmap"
	"plumb.internal/plumb/reconciler/resource/bpfprog"
	"plumb.internal/plumb/reconciler/resource/endpoint"
	"plumb.internal/plumb/reconciler/resource/exclusion"
	"plumb.internal/plumb/reconciler/resource/hostfile"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/neigh"
	"plumb.internal/plumb/reconciler/resource/netns"
	"plumb.internal/plumb/reconciler/resource/nft"
	"plumb.internal/plumb/reconciler/resource/nic"
	"plumb.internal/plumb/reconciler/resource/qdisc"
	"plumb.internal/plumb/reconciler/resource/route"
	"plumb.internal/plumb/reconciler/resource/rule"
	"plumb.internal/plumb/reconciler/resource/service"
	"plumb.internal/plumb/reconciler/resource/sysctl"
	"plumb.internal/plumb/reconciler/resource/unit"
	"plumb.internal/plumb/reconciler/resource/uplink"
)

// Ops are what a kind can do to a host. Every method may be run again after a crash at any point of it.
type Ops[R resource.Resource] interface {
	// Observe returns the objects that carry our mark, and those foreign ones that a desired object could meet. It
	// writes nothing. wanted tells where to look beyond the mark.
	Observe(ctx context.Context, h *host.Host, wanted []R) (owned, foreign []R, err error)
	// Diff lists what differs; inPlace says that Update can mend it.
	Diff(observed, desired R) (fields []resource.Field, inPlace bool)
	// Create fails if anything is there already.
	Create(ctx context.Context, h *host.Host, r R) error
	Update(ctx context.Context, h *host.Host, from, to R) error
	// Delete of a missing object is not an error; a foreign object is never touched.
	Delete(ctx context.Context, h *host.Host, r R) error
}

// Matcher is a kind of which there may be tens of thousands. It compares while it looks, so that nothing is made of those
// that are as they should be.
type Matcher[R resource.Resource] interface {
	// Match is Observe and Diff at once. All of wanted are R.
	Match(ctx context.Context, h *host.Host, wanted []resource.Resource) (resource.Matched[R], error)
}

// Looker is a kind whose objects can be looked at one by one.
type Looker[R resource.Resource] interface {
	// Look is Observe for one object, which is where and how it was last wanted or is wanted now; nil where it wasn't or
	// isn't. It returns nil where there is nothing.
	Look(ctx context.Context, h *host.Host, was, is *R) (*R, error)
}

// Conflicter is a kind whose foreign objects can be in the way of desired ones under another key. It is pure.
type Conflicter[R resource.Resource] interface {
	Conflicts(desired resource.State, foreign []R) []resource.Conflict
}

// Finisher is a kind with work that is done once at the end of an apply, for all its changes together. It is called also
// when some have failed; with nothing to do it must cost nothing.
type Finisher interface {
	Finish(ctx context.Context, h *host.Host) error
}

// Keeper is a kind whose objects can't be made again from a record of them. An apply that may be taken back leaves those
// that nothing wants any more.
type Keeper interface{ Keeps() }

// kinds is THE table: a new kind of object is one new folder and one line here.
var kinds = table{
	netns.Kind:     of(netns.Ops{}),
	link.Kind:      of(link.Ops{}),
	bpfmap.Kind:    of(bpfmap.Ops{}),
	bpfprog.Kind:   of(bpfprog.Ops{}),
	bpflink.Kind:   of(bpflink.Ops{}),
	addr.Kind:      of(addr.Ops{}),
	route.Kind:     of(route.Ops{}),
	rule.Kind:      of(rule.Ops{}),
	neigh.Kind:     of(neigh.Ops{}),
	sysctl.Kind:    of(sysctl.Ops{}),
	hostfile.Kind:  of(hostfile.Ops{}),
	nic.Kind:       of(nic.Ops{}),
	unit.Kind:      of(unit.Ops{}),
	qdisc.Kind:     of(qdisc.Ops{}),
	endpoint.Kind:  of(endpoint.Ops{}),
	exclusion.Kind: of(exclusion.Ops{}),
	uplink.Kind:    of(uplink.Ops{}),
	service.Kind:   of(service.Ops{}),
	nft.Kind:       of(nft.Ops{}),
}

// within are the kinds whose objects depend on nothing outside of their namespace, and whose changes are of them alone.
var within = table{
	addr.Kind:  kinds[addr.Kind],
	route.Kind: kinds[route.Kind],
	rule.Kind:  kinds[rule.Kind],
	neigh.Kind: kinds[neigh.Kind],
}

// network are the kinds that nothing but their own kind, links and namespaces can take along.
var network = table{
	netns.Kind:  kinds[netns.Kind],
	link.Kind:   kinds[link.Kind],
	addr.Kind:   kinds[addr.Kind],
	route.Kind:  kinds[route.Kind],
	rule.Kind:   kinds[rule.Kind],
	neigh.Kind:  kinds[neigh.Kind],
	sysctl.Kind: kinds[sysctl.Kind],
}
