package features

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/netns"
)

// Interrupts are known by what the bus lists, and by the names that drivers give them.
func TestInterrupts(t *testing.T) {
	names := interruptNames([]byte(`           CPU0       CPU1
 24:          1          0  IO-APIC   5-edge      ACPI:Ged
 37:          0          0 PCI-MSIX-0000:00:03.0   0-edge      virtio2-config
 38:          0      22810 PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0
 39:      18815          0 PCI-MSIX-0000:00:03.0   2-edge      virtio2-output.0
 40:      18815          0 PCI-MSIX-0000:00:23.0   2-edge      virtio23-output.0
 41:          0      22810 PCI-MSIX-0000:00:04.0   1-edge      virtio3-input.0
 42:      18815          0 PCI-MSIX-0000:00:04.0   2-edge      virtio3-output.0
 43:          0      22810 PCI-MSIX-0000:00:04.0   3-edge      virtio3-input.1
 44:      18815          0 PCI-MSIX-0000:00:04.0   4-edge      virtio3-output.1
 50:          7          0     GICv3 143 Level     i2c, eth1
 51:          7          0     GICv3 144 Level     eth10
 52:          7          0     GICv3 145 Level     eth1-TxRx-0
 60:          0          0     GICv3 200 Level
 61:          0          0   PCI-MSI 524288-edge      driver7
NMI:          0          0   Non-maskable interrupts
`))
	for _, c := range []struct {
		own    []int
		called []string
		want   string
	}{
		{[]int{37, 38, 39}, []string{"eth0", "virtio2"}, "[38 39]"},
		{nil, []string{"eth0", "virtio2"}, "[38 39]"},
		{nil, []string{"eth2", "virtio3"}, "[41 43 42 44]"},
		{nil, []string{"eth1", "1f00c0000.ethernet"}, "[50 52]"},
		{[]int{60, 61}, []string{"eth9", "0000:01:00.0"}, "[60 61]"},
		{nil, []string{"eth9"}, "[]"},
	} {
		if got := fmt.Sprint(interruptsOf(names, c.own, c.called...)); got != c.want {
			t.Errorf("of %v, %v: %s, want %s", c.own, c.called, got, c.want)
		}
	}
}

// In a namespace that isn't the machine's own, queues and limits are known, and nothing of the whole machine is.
func TestFactsOfGuest(t *testing.T) {
	f, err := netns.New(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.NumTxQueues, attrs.NumRxQueues = "eth0", 3, 2
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far0", PeerTxQLen: -1}); err != nil {
			return err
		}
		facts, err := hostFacts()
		if err != nil {
			return err
		}
		d := facts.Devices["eth0"]
		if !facts.Guest || facts.OnlineCPUs == "" || facts.Governors == nil {
			t.Errorf("guest %v, processors %q, governors %v", facts.Guest, facts.OnlineCPUs, facts.Governors)
		}
		if d.RXQueues != 2 || d.TXQueues != 3 || len(d.IRQs) != 0 || d.LocalCPUs != "" {
			t.Errorf("eth0 is %+v", d)
		}
		if d.MaxMTU < 65535-14 || d.RXRing != 0 || d.TXRing != 0 || d.Coalesce {
			t.Errorf("the driver of eth0 takes %+v", d)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestIsolated(t *testing.T) {
	for _, c := range [][3]string{{"", "(null)", ""}, {"", "", ""}, {"2-3", "", "2-3"}, {"2-3", "3,6", "2-3,3,6"}} {
		if got := isolated(c[0], c[1]); got != c[2] {
			t.Errorf("of %q and %q: %q", c[0], c[1], got)
		}
	}
}

func TestCommonGovernors(t *testing.T) {
	h := HostFacts{Governors: map[string][]string{"policy0": {"schedutil", "performance", "powersave"}, "policy4": {"performance", "schedutil"}}}
	if got := h.CommonGovernors(); !slices.Equal(got, []string{"performance", "schedutil"}) {
		t.Error(got)
	}
}

// What others have that forwarded packets pass is a fact.
func TestFirewallOfOthers(t *testing.T) {
	f, err := netns.New(func() error {
		for _, want := range []string{"[]", "[nftables chain out of table ip nat]"} {
			facts, err := hostFacts()
			if err != nil {
				return err
			}
			if got := fmt.Sprint(facts.Firewall); got != want {
				t.Errorf("the firewall is %s, want %s", got, want)
			}
			conn := &nftables.Conn{}
			chain := conn.AddChain(&nftables.Chain{
				Table: conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "nat"}), Name: "out",
				Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
			})
			conn.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{&expr.Masq{}}})
			if err := conn.Flush(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// Of queueing disciplines, what somebody configured is a fact: neither the kernel's own choice nor plumb's.
func TestQdiscsOfOthers(t *testing.T) {
	f, err := netns.New(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		want := map[string]string{"plain0": "", "theirs0": "tbf 5:", "ours0": ""}
		for name, handle := range map[string]uint16{"plain0": 0, "theirs0": 5, "ours0": ownGroup} {
			l := vethPair(name, "far-"+name)
			if err := h.LinkAdd(l); err != nil {
				return err
			}
			if err := h.LinkSetUp(l); err != nil {
				return err
			}
			if handle == 0 {
				continue
			}
			at := netlink.QdiscAttrs{LinkIndex: l.Index, Handle: netlink.MakeHandle(handle, 0), Parent: netlink.HANDLE_ROOT}
			if err := h.QdiscAdd(&netlink.Tbf{QdiscAttrs: at, Rate: 1 << 20, Limit: 1 << 16, Buffer: 1 << 14}); err != nil {
				return err
			}
		}
		facts, err := hostFacts()
		if err != nil {
			return err
		}
		for name, q := range want {
			if got := facts.Devices[name].Qdisc; got != q {
				t.Errorf("%s has %q, want %q", name, got, q)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
