package cli

import (
	"cmp"
	"fmt"
	"math/bits"
	"strings"
	"text/tabwriter"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
)

// later are the lines that such a page has elsewhere, of which this version has nothing.
const later = "NodePort, LoadBalancer, externalIPs, HostPort, DSR, NAT46/64, encryption"

// writeNode prints what status --verbose says besides.
func (o *Options) writeNode(n *nodeStatus) error {
	w := tabwriter.NewWriter(o.Out, 0, 8, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	fmt.Fprintln(w, "NODE\tEFFECTIVE")
	line("version", "%s", orDash(n.Version))
	line("host routing", "%s", n.Routing.text())
	line("masquerade", "%s", n.Routing.masquerade())
	line("forward hook", "%s", n.Routing.chains())
	line("connection table", "%s", connections(n.Connections))
	line("services by type", "ClusterIP %d", n.Services["ClusterIP"])
	line("bandwidth manager", "%s", n.limits())
	line("map sizing", "%s", n.Sizing.text())
	line("flows", "%s", n.Flows.text())
	line("clock source", "programs: monotonic; kernel: %s", n.Clock)
	line("not in this version", "%s", later)
	fmt.Fprintln(w)
	if len(n.Devices) > 0 {
		fmt.Fprintln(w, "DEVICE\tROUTES\tSTATE\tDRIVER\tMTU\tQDISC\tGSO\tXDP\tDRIVER'S XDP\tADDRESSES")
		for _, d := range n.Devices {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", d.Name, yesNo(d.Routes), d.state(), orDash(d.Driver), d.MTU,
				orDash(d.Qdisc), d.sizes(), d.xdp(), orDash(d.CanXDP), list(d.Addresses))
		}
		fmt.Fprintln(w)
	}
	if len(n.CIDRs) > 0 {
		fmt.Fprintln(w, "POD CIDR\tUSED\tBY")
		for _, c := range n.CIDRs {
			fmt.Fprintf(w, "%s\t%d/%s\t%s\n", c.CIDR, len(c.Used), c.room(), c.by())
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

func (r routingStatus) text() string {
	return map[string]string{
		"bpf":      "bpf: pods and other hosts past the stack, and pods of this node straight to each other",
		"straight": "legacy to and from other hosts; pods of this node straight to each other, past the stack",
		"legacy":   "legacy: everything passes the stack",
	}[r.Host]
}

func (r routingStatus) masquerade() string {
	if r.Leaving == "" {
		return r.Masquerade
	}
	return r.Masquerade + ": " + r.Leaving
}

func (r routingStatus) chains() string {
	if len(r.Chains) == 0 {
		return "no chains of others"
	}
	return strings.Join(r.Chains, ", ")
}

func connections(t host.Tracked) string {
	if !t.Available {
		return "not available here: this kernel has none, or no way to list it"
	}
	return fmt.Sprintf("%d of %d entries, %d of them of pods", t.Entries, t.Most, t.Pods)
}

// limits is "fq dev eth0 root; pod web: tbf dev eth0 root rate 100Mbit".
func (n *nodeStatus) limits() string {
	if len(n.Limits) == 0 {
		return "off"
	}
	var all []string
	for _, l := range n.Limits {
		text := l.Qdisc
		if l.Pod != "" {
			text = "pod " + l.Pod + ": " + text
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

func (s sizingStatus) text() string {
	memory := "memory that isn't known"
	if s.Memory > 0 {
		memory = fmt.Sprintf("%.1f MiB of memory", float64(s.Memory)/(1<<20))
	}
	return fmt.Sprintf("dynamic: ratio %f of %s for what is learnt; room for %d services", s.Ratio, memory, s.Services)
}

func (s flowStatus) text() string {
	if s.Most == 0 {
		return "none: no program translates packets"
	}
	var rates []string
	for _, reason := range bpf.Counters {
		if n := s.Packets[reason]; n > 0 {
			rates = append(rates, fmt.Sprintf("%.0f %s", n, reason))
		}
	}
	return fmt.Sprintf("%d/%d, %d active in the last second; packets/s: %s", s.Now, s.Most, s.Active, cmp.Or(strings.Join(rates, ", "), "none"))
}

func (d deviceStatus) state() string {
	switch {
	case d.MTU == 0:
		return "missing"
	case d.Up:
		return "up"
	}
	return "down"
}

// sizes are those of IPv4 and IPv6, where they differ.
func (d deviceStatus) sizes() string {
	switch {
	case d.GSO == 0:
		return "-"
	case d.GSO4 == 0 || d.GSO4 == d.GSO:
		return fmt.Sprint(d.GSO)
	}
	return fmt.Sprintf("%d (IPv4 %d)", d.GSO, d.GSO4)
}

func (d deviceStatus) xdp() string {
	if d.Program == 0 {
		return d.XDP
	}
	return fmt.Sprintf("%s, program %d", d.XDP, d.Program)
}

// room is a number, or a power of two where that is easier to read.
func (c cidrStatus) room() string {
	if c.Room < 1<<20 {
		return fmt.Sprint(c.Room)
	}
	return fmt.Sprintf("2^%d", bits.Len64(c.Room))
}

// mostShown is how many addresses of a range are told; JSON has them all.
const mostShown = 16

func (c cidrStatus) by() string {
	var all []string
	for _, u := range c.Used[:min(len(c.Used), mostShown)] {
		all = append(all, u.Address+" "+u.Pod)
	}
	if rest := len(c.Used) - mostShown; rest > 0 {
		all = append(all, fmt.Sprintf("and %d more", rest))
	}
	return orDash(strings.Join(all, ", "))
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}
