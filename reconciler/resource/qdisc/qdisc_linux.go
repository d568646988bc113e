package qdisc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// root is the handle of ours.
const root uint32 = resource.QdiscMajor << 16

// mq is the qdisc that has one below it for every queue of a device.
const mq = "mq"

// Observe implements reconciler.Ops. Where a device has a type that is never ours the link says so, and nothing more is
// asked.
func (Ops) Observe(ctx context.Context, h *host.Host, wanted []Qdisc) (owned, foreign []Qdisc, err error) {
	all, err := h.Devices(ctx)
	if err != nil {
		return nil, nil, err
	}
	asked := make(map[resource.Device]bool, len(wanted))
	for _, w := range wanted {
		asked[w.Device()] = true
	}
	for _, devices := range all {
		links, err := devices.NS.Links()
		if err != nil {
			return nil, nil, err
		}
		for _, l := range links {
			isAsked := asked[resource.Device{NetNS: devices.NS.Name, Name: l.Name}]
			if !isAsked && !slices.Contains([]string{FQ, TBF, mq}, l.Qdisc) {
				continue
			}
			list, err := devices.NS.Qdiscs()
			if err != nil {
				return nil, nil, err
			}
			i := slices.IndexFunc(list, func(q host.Qdisc) bool { return q.LinkIndex == l.Index && q.Root() })
			switch {
			case i < 0 || list[i].Handle == 0: // none, or the kernel's own
			case list[i].Handle == root:
				owned = append(owned, observe(devices.NS, l, list, list[i]))
			case isAsked:
				foreign = append(foreign, Qdisc{NetNS: devices.NS.Name, Dev: l.Name, Type: list[i].Kind, Rate: list[i].Rate * 8,
					Handle: fmt.Sprintf("%x:", list[i].Handle>>16)})
			}
		}
	}
	return owned, foreign, nil
}

// observe describes one of ours.
func observe(ns *host.NS, l *host.Link, list []host.Qdisc, top host.Qdisc) Qdisc {
	q := Qdisc{NetNS: ns.Name, Dev: l.Name, Type: top.Kind, Rate: top.Rate * 8}
	switch top.Kind {
	case FQ:
		if !holds(top) {
			q.Faults = held(top)
		}
	case mq:
		q.Type = FQ
		var faults []string
		for _, child := range others(list, l) {
			text := "has " + child.Kind
			if child.Kind == FQ {
				text = held(child)
			}
			faults = append(faults, fmt.Sprintf("queue %d %s", child.Parent&0xffff, text))
		}
		slices.Sort(faults)
		q.Faults = strings.Join(faults, ", ")
	}
	return q
}

// An fq holds so many packets, and so many of one flow. What limits let wait has to fit, or its time is lost with it: packets
// that came through the node's stack have no socket any more, which would make their sender wait; the kernel's 10,000 and 100
// are for such that have.
const (
	packets     = 40000
	flowPackets = 10000
)

func holds(q host.Qdisc) bool { return q.Packets == packets && q.FlowPackets == flowPackets }

func held(q host.Qdisc) string {
	return fmt.Sprintf("holds %d packets, %d of a flow", q.Packets, q.FlowPackets)
}

// fq is one as plumb makes it.
func fq(a netlink.QdiscAttrs) netlink.Qdisc {
	q := netlink.NewFq(a)
	q.PacketLimit, q.FlowPacketLimit = packets, flowPackets
	return q
}

// others are the qdiscs of single queues of a device that aren't an fq as plumb makes them.
func others(list []host.Qdisc, l *host.Link) []host.Qdisc {
	var found []host.Qdisc
	for _, q := range list {
		if q.LinkIndex == l.Index && q.Parent != netlink.HANDLE_ROOT && q.Parent>>16 == root>>16 && (q.Kind != FQ || !holds(q)) {
			found = append(found, q)
		}
	}
	return found
}

// Create implements reconciler.Ops. The kernel refuses where somebody has put a qdisc of his own meanwhile.
func (Ops) Create(_ context.Context, h *host.Host, q Qdisc) error {
	ns, l, err := find(h, q)
	if err != nil {
		return fmt.Errorf("create %s: %w", q.ID(), err)
	}
	top, err := q.top(l)
	if err != nil {
		return fmt.Errorf("create %s: %w", q.ID(), err)
	}
	h.Wrote("create %s", q.ID())
	if err := ns.Handle().QdiscAdd(top); err != nil {
		return fmt.Errorf("create %s: %w", q.ID(), unavailable(q, err))
	}
	return q.fill(h, ns, l)
}

// Update implements reconciler.Ops: another rate, or a queue that lost its fq.
func (Ops) Update(_ context.Context, h *host.Host, from, to Qdisc) error {
	ns, l, err := find(h, to)
	if err != nil {
		return fmt.Errorf("update %s: %w", to.ID(), err)
	}
	if from.Rate/8 != to.Rate/8 || from.Faults != "" && l.TxQueues <= 1 {
		top, err := to.top(l)
		if err != nil {
			return fmt.Errorf("update %s: %w", to.ID(), err)
		}
		h.Wrote("update %s", to.ID())
		if err := ns.Handle().QdiscReplace(top); err != nil {
			return fmt.Errorf("update %s: %w", to.ID(), err)
		}
	}
	return to.fill(h, ns, l)
}

// Delete implements reconciler.Ops: the kernel puts its own choice back.
func (Ops) Delete(_ context.Context, h *host.Host, q Qdisc) error {
	ns, l, err := find(h, q)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", q.ID(), err)
	}
	ns.Forget()
	list, err := ns.Qdiscs()
	if err != nil {
		return fmt.Errorf("delete %s: %w", q.ID(), err)
	}
	if !slices.ContainsFunc(list, func(q host.Qdisc) bool { return q.LinkIndex == l.Index && q.Root() && q.Handle == root }) {
		return nil
	}
	h.Wrote("delete %s", q.ID())
	err = ns.Handle().QdiscDel(&netlink.GenericQdisc{QdiscAttrs: attrs(l)})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %s: %w", q.ID(), err)
	}
	return nil
}

func find(h *host.Host, q Qdisc) (*host.NS, *host.Link, error) {
	ns, err := h.NS(q.NetNS)
	if err != nil {
		return nil, nil, err
	}
	l, err := ns.Link(q.Dev)
	return ns, l, err
}

func attrs(l *host.Link) netlink.QdiscAttrs {
	return netlink.QdiscAttrs{LinkIndex: l.Index, Handle: root, Parent: netlink.HANDLE_ROOT}
}

// top is what goes to the root of a device.
func (q Qdisc) top(l *host.Link) (netlink.Qdisc, error) {
	switch q.Type {
	case FQ:
		if l.TxQueues > 1 {
			return &netlink.GenericQdisc{QdiscAttrs: attrs(l), QdiscType: mq}, nil
		}
		return fq(attrs(l)), nil
	case TBF:
		rate := q.Rate / 8
		burst := burst(rate)
		return &netlink.Tbf{QdiscAttrs: attrs(l), Rate: rate, Buffer: ticks(rate, burst), Limit: burst + queue(rate)}, nil
	}
	return nil, fmt.Errorf("%q isn't a type of plumb's", q.Type)
}

// fill gives every queue that is in use an fq of its own. Their handles are the kernel's choice: they are below ours.
func (q Qdisc) fill(h *host.Host, ns *host.NS, l *host.Link) error {
	if q.Type != FQ {
		return nil
	}
	ns.Forget()
	list, err := ns.Qdiscs()
	if err != nil {
		return err
	}
	for _, child := range others(list, l) {
		h.Wrote("create %s for queue %d", q.ID(), child.Parent&0xffff)
		err := ns.Handle().QdiscReplace(fq(netlink.QdiscAttrs{LinkIndex: l.Index, Parent: child.Parent}))
		if err != nil {
			return fmt.Errorf("create %s for queue %d: %w", q.ID(), child.Parent&0xffff, unavailable(q, err))
		}
	}
	ns.Forget()
	return nil
}

// burst is how many bytes may go at once at a rate in bytes per second: what it sends in 10 ms, since timers aren't finer
// on old kernels, and at least one packet as large as the stack makes them.
func burst(rate uint64) uint32 { return uint32(min(max(rate/100, 64<<10), 64<<20)) }

// queue is how many bytes may wait at a rate: what it sends in 100 ms, and at least four packets as large as the stack makes
// them. With less a flow loses all that it has under way at once.
func queue(rate uint64) uint32 { return uint32(min(max(rate/10, 256<<10), 64<<20)) }

// ticks is how long bytes take at a rate, in the kernel's unit of 64 ns.
func ticks(rate uint64, bytes uint32) uint32 {
	if rate == 0 {
		return 0
	}
	return uint32(min(uint64(bytes)*1e9/rate>>6, 1<<32-1))
}

// unavailable says that the kernel has no qdisc of this type.
func unavailable(q Qdisc, err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("this kernel has no qdisc %s: %w: %w", q.Type, unix.EOPNOTSUPP, err)
	}
	return err
}
