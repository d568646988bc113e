// Command routing measures what the ways from a pod to a host behind the node's uplink cost, on this kernel:
//
//	bench-routing [-rounds N] [-attach veth,…] [-rules none,0,1000] [-seconds S | -count N [-apart]]
//
// The pod is the client, the server another host, behind a pair of devices of which one end is the uplink. The pod reaches
// another node of the files by each kind of host routing, where the node has no firewall and where it has one with so many
// rules in its forward hook; and a host that the files don't know by each kind of masquerade. Everything is one run, in
// which rounds go over all ways in turn: see package lanes. Figures are compared with those of a table's first line.
//
//	main.go      flags, groups, tables
//	ways.go      what is measured: a way is a name, a configuration, and what the node tracks
//	bed.go       a node with its pod, and the host behind the uplink
//	firewall.go  the node's firewall, and its connection table
//
// A firewall looks at connections' states, as those of real hosts do, so that the kernel tracks what passes its stack.
// After that every packet that passes the forward hook is compared with every rule. A firewall that accepts established
// connections first has its rules looked at for each connection's first packet alone.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"plumb.internal/plumb/internal/bench/lanes"
)

func main() {
	if lanes.IsChild() {
		return
	}
	o := lanes.Options{Metrics: []lanes.Metric{lanes.CPUTransaction, lanes.Transactions, lanes.P50, lanes.P99, lanes.CPUConnection, lanes.Connections,
		lanes.CPUGbit, lanes.Gbits, lanes.CPUGbitIn, lanes.GbitsIn}}
	o.Flags(40, 0.15)
	numbers := flag.String("rules", "none,0,1000", "`numbers` of rules in the forward hook of the node's firewall; none: there is no firewall")
	attach := flag.String("attach", "veth", "`names` of attachments, one after the other")
	flag.Parse()
	var rules []int
	for _, n := range strings.Split(*numbers, ",") {
		k, err := strconv.Atoi(n)
		if n == "none" {
			k, err = noFirewall, nil
		} else if err == nil && k < 0 {
			err = strconv.ErrRange
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "-rules: %q is no number of rules\n", n)
			os.Exit(1)
		}
		rules = append(rules, k)
	}
	lanes.Main(func(ctx context.Context, g *lanes.Ground) error {
		for _, a := range strings.Split(*attach, ",") {
			if err := measure(ctx, o, g, a, groups(rules)); err != nil {
				return fmt.Errorf("%s: %w", a, err)
			}
		}
		return nil
	})
}

// measure goes over all ways of one attachment, and prints the tables of each group.
func measure(ctx context.Context, o lanes.Options, g *lanes.Ground, attach string, groups []group) (err error) {
	var all []*lanes.Lane
	defer func() { err = lanes.Closed(all, err) }()
	of := map[*lanes.Lane]int{}
	for i, gr := range groups {
		for _, w := range gr.ways {
			start := time.Now()
			l, err := lane(ctx, o, g, attach, w, gr.rules)
			if err != nil { // this kernel may not have it, and the compiler says why
				fmt.Printf("%s, %s can't be had with %s, and is left out: %v\n", gr.name, w.name, attach, err)
				continue
			}
			all = append(all, l)
			of[l] = i
			fmt.Fprintf(os.Stderr, "%s, %s, %s is set up in %s\n", attach, gr.name, w.name, time.Since(start).Round(time.Millisecond))
		}
	}
	if all, err = o.Run(ctx, attach, all); err != nil {
		return err
	}
	for i, gr := range groups {
		var these []*lanes.Lane
		for _, l := range all {
			if of[l] == i {
				these = append(these, l)
			}
		}
		if len(these) > 0 {
			fmt.Printf("\n%s, %s\n", attach, gr.name)
			o.Print(these)
		}
	}
	return nil
}

// lane is a way with a client in the pod and a server behind the uplink.
func lane(ctx context.Context, o lanes.Options, g *lanes.Ground, attach string, w way, rules int) (*lanes.Lane, error) {
	b, err := newBed(ctx, g, attach, w, rules)
	if err != nil {
		return nil, err
	}
	l, err := o.NewLane(w.name, b.Bed, b.pod, []*os.File{b.Far}, w.target())
	if err == nil {
		l.Check = func() error { return checkTracked(b.Root, w.tracked) }
	}
	return l, err
}
