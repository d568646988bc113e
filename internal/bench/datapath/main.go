// Command datapath measures what a way to a service costs beside talking to the pod itself, on this kernel:
//
//	bench-datapath [-rounds N] [-attach veth,bridge,…] [-services 1,10000] [-paths direct,plumb,…] [-seconds S | -count N [-apart]]
//
// Every path is a lane of its own: a node, a client pod and server pods. Rounds go over all paths in turn, and every figure
// is compared with the first path's of the same round: see package lanes.
//
//	main.go    flags, lanes, tables
//	bed.go     a node with its pods
//	paths.go   what is measured: a path is a name, a configuration, and a target
//	kubeproxy.go  the anchor above, a ruleset in kube-proxy's shape, loaded by nft
//	bare.go    the anchor below, a redirect and nothing else
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

type options struct {
	lanes.Options
	services []int
	paths    []string
	backends int
}

func main() {
	if lanes.IsChild() {
		return
	}
	o := options{}
	o.Flags(120, 0.3)
	o.Metrics = []lanes.Metric{lanes.Gbits, lanes.Connections, lanes.CPUConnection, lanes.P50, lanes.P99}
	services := flag.String("services", "1,10000", "`numbers` of services on the node")
	attach := flag.String("attach", "veth,bridge,macvlan", "`names` of attachments, one after the other")
	names := flag.String("paths", "direct,programs,plumb,socket,packet,nft,kubeproxy", "`names` of paths; the others are compared with the first")
	flag.IntVar(&o.backends, "backends", 1, "backends of a service")
	flag.Parse()
	o.paths = strings.Split(*names, ",")
	for _, n := range strings.Split(*services, ",") {
		k, err := strconv.Atoi(n)
		if err != nil || k < 1 {
			fmt.Fprintf(os.Stderr, "-services: %q is no number of services\n", n)
			os.Exit(1)
		}
		o.services = append(o.services, k)
	}
	lanes.Main(func(ctx context.Context, g *lanes.Ground) error {
		for _, a := range strings.Split(*attach, ",") {
			if err := o.measure(ctx, g, a); err != nil {
				return fmt.Errorf("%s: %w", a, err)
			}
		}
		return nil
	})
}

// measure goes over all paths of one attachment, and prints the tables.
func (o options) measure(ctx context.Context, g *lanes.Ground, attach string) (err error) {
	var all []*lanes.Lane
	defer func() { err = lanes.Closed(all, err) }()
	for _, name := range o.paths {
		p, ok := paths[name]
		if !ok {
			return fmt.Errorf("there is no path %q", name)
		}
		counts := o.services
		if p.alone {
			counts = []int{0}
		}
		if name == "bare" && attach != "veth" && attach != "netkit" {
			continue // they have no peer to redirect to
		}
		for _, n := range counts {
			start := time.Now()
			l, err := o.lane(ctx, g, attach, name, p, n)
			if err != nil {
				return fmt.Errorf("set up %s with %d services: %w", name, n, err)
			}
			all = append(all, l)
			fmt.Fprintf(os.Stderr, "%s, %s is set up in %s\n", attach, l.Name, time.Since(start).Round(time.Millisecond))
		}
	}
	if all, err = o.Run(ctx, attach, all); err != nil {
		return err
	}
	o.Print(all)
	return nil
}

// lane is a path with a client and servers on it.
func (o options) lane(ctx context.Context, g *lanes.Ground, attach, name string, p path, services int) (*lanes.Lane, error) {
	b, err := newBed(ctx, g, attach, p, services, o.backends)
	if err != nil {
		return nil, err
	}
	if services > 0 {
		name = fmt.Sprintf("%s %d", name, services)
	}
	l, err := o.NewLane(name, b.Bed, b.client, b.servers, p.target(b))
	if err == nil && p.mark > 0 {
		l.Note = p.note
	}
	return l, err
}
