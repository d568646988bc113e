package qdisc_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/qdisc"
)

// queues makes a device eth1 with two queues, and br1 with one, up.
func queues(t *testing.T, h *host.Host) {
	t.Helper()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.NumTxQueues, attrs.NumRxQueues = "eth1", 2, 2
	if err := ns.Handle().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far1", PeerTxQLen: -1}); err != nil {
		t.Fatal(err)
	}
	one := netlink.NewLinkAttrs()
	one.Name = "br1"
	if err := ns.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: one}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"eth1", "far1", "br1"} {
		l, err := ns.Link(name)
		if err == nil {
			err = ns.Handle().LinkSetUp(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	h.Forget()
}

// list is what a device has, as "KIND HANDLE parent PARENT" in order.
func list(t *testing.T, h *host.Host, dev string) (lines []string) {
	t.Helper()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	l, err := ns.Link(dev)
	if err != nil {
		t.Fatal(err)
	}
	ns.Forget()
	all, err := ns.Qdiscs()
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range all {
		if q.LinkIndex != l.Index {
			continue
		}
		line := q.Kind + " root"
		if !q.Root() {
			line = q.Kind + " parent " + netlink.HandleStr(q.Parent)
		}
		if q.Handle>>16 == resource.QdiscMajor {
			line += " ours"
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

func create(t *testing.T, h *host.Host, q qdisc.Qdisc) {
	t.Helper()
	err := (qdisc.Ops{}).Create(t.Context(), h, q)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestKind(t *testing.T) {
	kindtest.Run(t, kindtest.Kind[qdisc.Qdisc]{
		Ops: qdisc.Ops{},
		Samples: []qdisc.Qdisc{
			{Dev: "eth0", Type: qdisc.TBF, Rate: 100e6},
			{Dev: "eth0", Type: qdisc.TBF, Rate: 10e6 + 7}, // not a whole number of bytes
			{Dev: "br1", Type: qdisc.FQ},
			{Dev: "eth1", Type: qdisc.FQ},
		},
		Setup: queues,
		Foreign: func(t *testing.T, h *host.Host, q qdisc.Qdisc) func(*testing.T) {
			ns, err := h.NS("")
			if err != nil {
				t.Fatal(err)
			}
			l, err := ns.Link(q.Dev)
			if err != nil {
				t.Fatal(err)
			}
			err = ns.Handle().QdiscAdd(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Index, Handle: 1 << 16, Parent: netlink.HANDLE_ROOT},
				Rate: 1 << 20, Limit: 1 << 16, Buffer: 1 << 14})
			if err != nil {
				t.Fatal(err)
			}
			before := list(t, h, q.Dev)
			return func(t *testing.T) {
				if now := list(t, h, q.Dev); !slices.Equal(now, before) {
					t.Errorf("before %q, now %q", before, now)
				}
			}
		},
	})
}

// A device with several queues gets one fq for each, below a root that carries the mark; what the kernel had chosen comes
// back by itself.
func TestQueues(t *testing.T) {
	h := kindtest.Root(t)
	queues(t, h)
	for dev, want := range map[string][]string{
		"br1":  {"fq root ours"},
		"eth1": {"fq parent 706c:1", "fq parent 706c:2", "mq root ours"},
	} {
		before := list(t, h, dev)
		q := qdisc.Qdisc{Dev: dev, Type: qdisc.FQ}
		create(t, h, q)
		if now := list(t, h, dev); !slices.Equal(now, want) {
			t.Errorf("%s has %q, want %q", dev, now, want)
		}
		if err := (qdisc.Ops{}).Delete(t.Context(), h, q); err != nil {
			t.Fatal(err)
		}
		if now := list(t, h, dev); !slices.Equal(now, before) {
			t.Errorf("%s has %q, before it had %q", dev, now, before)
		}
	}
}

// A queue that lost its fq is a fault, and is healed without touching the others.
func TestQueueOfSomebodyElse(t *testing.T) {
	h := kindtest.Root(t)
	queues(t, h)
	q := qdisc.Qdisc{Dev: "eth1", Type: qdisc.FQ}
	create(t, h, q)
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	l, err := ns.Link("eth1")
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Handle().QdiscReplace(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Index, Parent: resource.QdiscMajor<<16 | 2},
		Rate: 1 << 20, Limit: 1 << 16, Buffer: 1 << 14}); err != nil {
		t.Fatal(err)
	}
	h.Forget()
	owned, _, err := (qdisc.Ops{}).Observe(t.Context(), h, nil)
	if err != nil || len(owned) != 1 {
		t.Fatalf("observed %v, %v", owned, err)
	}
	fields, inPlace := (qdisc.Ops{}).Diff(owned[0], q)
	if len(fields) != 1 || fields[0].Before != "queue 2 has tbf" || !inPlace {
		t.Errorf("differs: %v", fields)
	}
	before := h.Writes()
	if err := (qdisc.Ops{}).Update(t.Context(), h, owned[0], q); err != nil {
		t.Fatal(err)
	}
	if n := h.Writes() - before; n != 1 {
		t.Errorf("%d writes", n)
	}
	if now := list(t, h, "eth1"); !slices.Equal(now, []string{"fq parent 706c:1", "fq parent 706c:2", "mq root ours"}) {
		t.Errorf("eth1 has %q", now)
	}
}

// An fq that holds as little as the kernel's own is a fault, also for a single queue, and is changed while it works.
func TestLimitsOfFQ(t *testing.T) {
	h := kindtest.Root(t)
	queues(t, h)
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	for dev, c := range map[string]struct {
		parent, handle uint32
		fault          string
	}{
		"br1":  {netlink.HANDLE_ROOT, resource.QdiscMajor << 16, "holds 10000 packets, 100 of a flow"},
		"eth1": {resource.QdiscMajor<<16 | 2, 0, "queue 2 holds 10000 packets, 100 of a flow"},
	} {
		q := qdisc.Qdisc{Dev: dev, Type: qdisc.FQ}
		create(t, h, q)
		l, err := ns.Link(dev)
		if err != nil {
			t.Fatal(err)
		}
		little := netlink.NewFq(netlink.QdiscAttrs{LinkIndex: l.Index, Parent: c.parent, Handle: c.handle})
		little.PacketLimit, little.FlowPacketLimit = 10000, 100
		if err := ns.Handle().QdiscReplace(little); err != nil {
			t.Fatal(err)
		}
		before := list(t, h, dev)
		for _, fault := range []string{c.fault, ""} {
			h.Forget()
			owned, _, err := (qdisc.Ops{}).Observe(t.Context(), h, []qdisc.Qdisc{q})
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(owned, func(o qdisc.Qdisc) bool { return o.Dev == dev })
			if i < 0 || owned[i].Faults != fault {
				t.Fatalf("observed %+v, expected fault %q of %s", owned, fault, dev)
			}
			if fault == "" {
				break
			}
			if err := (qdisc.Ops{}).Update(t.Context(), h, owned[i], q); err != nil {
				t.Fatal(err)
			}
		}
		if now := list(t, h, dev); !slices.Equal(now, before) {
			t.Errorf("%s had %q, now %q", dev, before, now)
		}
	}
}

// Ours is found on pods' devices too, without being asked for, and goes with the link.
func TestInPod(t *testing.T) {
	h := kindtest.Root(t)
	kindtest.Pod(t, h, "web")
	l := link.Link{NetNS: "web", Name: "eth0", Type: link.Veth, MTU: 1500, MAC: "02:00:00:00:01:01",
		Peer: &link.Peer{Name: "pl1", MTU: 1500, MAC: "02:00:00:00:01:02"}}
	if err := (link.Ops{}).Create(t.Context(), h, l); err != nil {
		t.Fatal(err)
	}
	h.Forget()
	for _, q := range []qdisc.Qdisc{{NetNS: "web", Dev: "eth0", Type: qdisc.TBF, Rate: 1e6, Link: l.ID()}, {Dev: "pl1", Type: qdisc.TBF, Rate: 2e6, Link: l.ID()}} {
		create(t, h, q)
	}
	h.Forget()
	owned, foreign, err := (qdisc.Ops{}).Observe(t.Context(), h, nil)
	if err != nil || len(owned) != 2 || len(foreign) != 0 {
		t.Fatalf("observed %v, %v, %v", owned, foreign, err)
	}
	var lines []string
	for _, q := range owned {
		lines = append(lines, q.ID().String()+": "+q.Describe())
	}
	slices.Sort(lines)
	if want := []string{"qdisc pl1: tbf dev pl1 root rate 2Mbit", "qdisc web/eth0: tbf dev eth0 root rate 1Mbit"}; !slices.Equal(lines, want) {
		t.Errorf("observed %q", lines)
	}
	if err := (link.Ops{}).Delete(t.Context(), h, l); err != nil {
		t.Fatal(err)
	}
	h.Forget()
	if owned, _, err = (qdisc.Ops{}).Observe(t.Context(), h, nil); err != nil || len(owned) != 0 {
		t.Errorf("left: %v, %v", owned, err)
	}
	for _, q := range []qdisc.Qdisc{{NetNS: "web", Dev: "eth0"}, {NetNS: "gone", Dev: "eth0"}} {
		if err := (qdisc.Ops{}).Delete(t.Context(), h, q); err != nil {
			t.Error(err)
		}
	}
}

func TestConflicts(t *testing.T) {
	q := qdisc.Qdisc{NetNS: "web", Dev: "eth0", Type: qdisc.FQ, From: "pods.web.bandwidth"}
	got := (qdisc.Ops{}).Conflicts(resource.State{q.ID(): q}, []qdisc.Qdisc{{NetNS: "web", Dev: "eth0", Type: "cake", Handle: "1:"}, {Dev: "eth0", Type: "sfq", Handle: "2:"}})
	if len(got) != 1 || got[0].Foreign != "qdisc cake 1: dev eth0 root" || !strings.Contains(got[0].Fix, "tc -n web qdisc del dev eth0 root") ||
		!strings.Contains(got[0].Fix, q.From) {
		t.Errorf("conflicts: %+v", got)
	}
}
