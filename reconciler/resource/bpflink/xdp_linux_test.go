package bpflink_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
)

// xdpWays are those that this kernel has.
func xdpWays(t *testing.T) []string {
	t.Helper()
	kindtest.NeedRoot(t)
	p, _ := counting(t, ebpf.XDP, ebpf.AttachNone)
	l, err := link.AttachXDP(link.XDPOptions{Interface: 1 << 30, Program: p}) // there is no such device
	if err == nil {
		l.Close()
	}
	if errors.Is(err, link.ErrNotSupported) {
		return []string{bpflink.Netlink}
	}
	return []string{bpflink.Link, bpflink.Netlink}
}

func early(dev, way, mode, name string) bpflink.Attachment {
	return bpflink.Attachment{Dev: dev, Hook: bpflink.XDP, Way: way, Mode: mode, Program: program(name)}
}

// theirs puts somebody else's program on a device, and returns how to see that it is there still, and how to take it away.
func theirs(t *testing.T, h *host.Host, dev string) (there func() bool, away func()) {
	t.Helper()
	p, _ := counting(t, ebpf.XDP, ebpf.AttachNone)
	ns, index, err := h.Device("", dev)
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.SetXDP(index, host.XDPGeneric, p.FD(), false); err != nil {
		t.Fatal(err)
	}
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	there = func() bool {
		l, err := ns.Link(dev)
		if err != nil {
			t.Fatal(err)
		}
		return len(l.XDP) == 1 && l.XDP[0] == host.XDP{Mode: host.XDPGeneric, Program: uint32(id)}
	}
	return there, func() {
		if err := ns.SetXDP(index, host.XDPGeneric, -1, true); err != nil {
			t.Error(err)
		}
	}
}

// The way to attach is what this kernel has; samples change the program, the mode and the way.
func TestXDP(t *testing.T) {
	samples := []bpflink.Attachment{}
	for _, way := range xdpWays(t) {
		samples = append(samples, early("eth0", way, bpflink.Native, "xdp.1"), early("eth0", way, bpflink.Native, "xdp.2"),
			early("eth0", way, bpflink.Generic, "xdp.2"))
	}
	kindtest.Run(t, kindtest.Kind[bpflink.Attachment]{Ops: ops, Setup: func(t *testing.T, h *host.Host) { pinned(t, h) }, Samples: samples,
		Foreign: func(t *testing.T, h *host.Host, r bpflink.Attachment) func(t *testing.T) {
			there, away := theirs(t, h, r.Dev)
			return func(t *testing.T) {
				if !there() {
					t.Error("the foreign program is gone")
				}
				away()
			}
		},
	})
}

// The program sees what comes in, a second apply writes nothing, and another program takes over without a gap in which the
// device has none.
func TestXDPRuns(t *testing.T) {
	for _, way := range xdpWays(t) {
		for _, mode := range []string{bpflink.Native, bpflink.Generic} {
			t.Run(way+" "+mode, func(t *testing.T) {
				h := kindtest.Root(t)
				runs := pinned(t, h)
				ns, err := h.NS("")
				if err != nil {
					t.Fatal(err)
				}
				attrs := netlink.NewLinkAttrs()
				attrs.Name, attrs.Flags = "x0", 1 // up
				if err := ns.Handle().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "x1"}); err != nil {
					t.Fatal(err)
				}
				for _, name := range []string{"x0", "x1"} {
					l, err := ns.Link(name)
					if err == nil {
						err = ns.Handle().LinkSetUp(l)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				was, err := ns.Link("x0")
				if err != nil {
					t.Fatal(err)
				}
				a := early("x0", way, mode, "xdp.1")
				if err := ops.Create(t.Context(), h, a); err != nil {
					t.Fatal(err)
				}
				sendBy(t, h, "x1")
				if runs["xdp.1"]() == 0 {
					t.Error("the program doesn't run")
				}
				before := h.Writes()
				if err := ops.Update(t.Context(), h, a, a); err != nil {
					t.Fatal(err)
				}
				if n := h.Writes() - before; n != 0 {
					t.Errorf("%d writes for what is as it should be", n)
				}
				b := early("x0", way, mode, "xdp.2")
				if err := ops.Update(t.Context(), h, a, b); err != nil {
					t.Fatal(err)
				}
				n := runs["xdp.1"]()
				sendBy(t, h, "x1")
				if runs["xdp.2"]() == 0 || runs["xdp.1"]() != n {
					t.Error("the new program doesn't run, or the old one does still")
				}
				now, err := ns.Link("x0")
				if err != nil || now.Index != was.Index || len(now.XDP) != 1 {
					t.Errorf("%+v, %v", now, err)
				}
				if err := ops.Delete(t.Context(), h, b); err != nil {
					t.Fatal(err)
				}
				if now, err = ns.Link("x0"); err != nil || len(now.XDP) != 0 {
					t.Errorf("left: %+v, %v", now.XDP, err)
				}
			})
		}
	}
}

// Somebody else's program is a conflict that names it; a driver without XDP of its own says so, and nothing is left.
func TestXDPRefused(t *testing.T) {
	for _, way := range xdpWays(t) {
		t.Run(way, func(t *testing.T) {
			h := kindtest.Root(t)
			pinned(t, h)
			there, away := theirs(t, h, "eth0")
			a := early("eth0", way, bpflink.Native, "xdp.1")
			owned, foreign := observe(t, h, a)
			if len(owned) != 0 || len(foreign) != 1 {
				t.Fatalf("owned %+v, foreign %+v", owned, foreign)
			}
			conflicts := ops.Conflicts(resource.State{a.ID(): a}, foreign)
			if len(conflicts) != 1 || !strings.Contains(conflicts[0].Foreign, "(xdp), generic, which has the XDP hook of eth0") {
				t.Errorf("conflicts: %+v", conflicts)
			}
			if err := ops.Create(t.Context(), h, a); err == nil || !there() {
				t.Errorf("created, or it is gone: %v", err)
			}
			away()
			ns, err := h.NS("")
			if err != nil {
				t.Fatal(err)
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "br9"
			if err := ns.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
				t.Fatal(err)
			}
			a.Dev = "br9"
			if err := ops.Create(t.Context(), h, a); err == nil || !strings.Contains(err.Error(), "the driver of br9 has no native XDP") {
				t.Errorf("%v", err)
			}
			if owned, _ := observe(t, h); len(owned) != 0 {
				t.Errorf("owned: %+v", owned)
			}
			if names, err := h.BPFNames(host.BPFLinkFolder, "_root"); err != nil && !os.IsNotExist(err) || len(names) > 0 {
				t.Errorf("left: %q, %v", names, err)
			}
		})
	}
}

// Hardware may lose its link for a program that its driver runs, when that comes, goes or changes its mode; not for another
// program in its place, and software devices have no link to lose.
func TestXDPDisruption(t *testing.T) {
	native := early("eth0", bpflink.Link, bpflink.Native, "xdp.1")
	hard := native
	hard.Hardware = true
	generic := early("eth0", bpflink.Link, bpflink.Generic, "xdp.1")
	for _, c := range []struct {
		action resource.Action
		to     bpflink.Attachment
		from   resource.Resource
		want   resource.Disruption
	}{
		{resource.Create, native, nil, resource.DisruptsNothing},
		{resource.Create, hard, nil, resource.DisruptsLink},
		{resource.Create, generic, nil, resource.DisruptsNothing},
		{resource.Update, hard, hard, resource.DisruptsNothing},
		{resource.Replace, generic, hard, resource.DisruptsLink},
		{resource.Delete, hard, hard, resource.DisruptsLink},
		{resource.Delete, native, native, resource.DisruptsNothing},
	} {
		if got := c.to.Disruption(c.action, c.from); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.action, c.to.Describe(), got, c.want)
		}
	}
}
