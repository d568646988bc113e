// Command datapath measures what a way to a service costs beside talking to the pod itself, on this kernel:
//
//	bench-datapath [-rounds N] [-seconds S] [-attach veth|bridge|macvlan] [-services 1,10000] [-paths direct,nft,kubeproxy]
//
// Every path has a bed of its own: a node, a client pod and server pods in network namespaces that live as long as the
// run, with nothing else in them, so that paths share no connection, no port and no rule. Rounds go over all paths in
// turn, each round beginning with another one, and every figure is compared with the first path's of the same round:
// medians of the ratios, with the 95 % interval of a bootstrap. Absolute figures mean little on a shared machine.
//
//	main.go    flags, rounds
//	bed.go     the namespaces of one path, by kind of attachment
//	paths.go   what is measured: a path is a name and what it sets up
//	kubeproxy.go  the anchor, a ruleset in kube-proxy's shape, loaded by nft
//	load.go    starting client and servers, processes of this binary that are pinned to one CPU each
//	child.go   what they do
//	figures.go medians, intervals, the table
//
// A connection costs what the processes of client and servers ran, plus the kernel's softirq threads of their CPUs. On a
// kernel without IRQ_TIME_ACCOUNTING that holds the softirqs that interrupt them too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	rounds   int
	time     time.Duration // of one measurement
	attach   string
	services []int
	paths    []string
	backends int
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "-child" {
		child(os.Args[2:])
		return
	}
	o := options{}
	seconds := flag.Float64("seconds", 0.3, "length of one measurement")
	services := flag.String("services", "1,10000", "`numbers` of services on the node")
	paths := flag.String("paths", "direct,nft,kubeproxy", "`names` of paths; the others are compared with the first")
	flag.IntVar(&o.rounds, "rounds", 12, "rounds over all paths; claims below 10 % need 120")
	flag.StringVar(&o.attach, "attach", "veth", "veth, bridge or macvlan")
	flag.IntVar(&o.backends, "backends", 1, "backends of a service")
	flag.Parse()
	o.time = time.Duration(*seconds * float64(time.Second))
	o.paths = strings.Split(*paths, ",")
	for _, n := range strings.Split(*services, ",") {
		k, err := strconv.Atoi(n)
		if err != nil || k < 1 {
			fmt.Fprintf(os.Stderr, "bench-datapath: -services: %q is no number of services\n", n)
			os.Exit(1)
		}
		o.services = append(o.services, k)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-datapath:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if os.Getuid() != 0 {
		return errors.New("network namespaces need root")
	}
	var lanes []*lane
	defer func() {
		for _, l := range lanes {
			err = errors.Join(err, l.close())
		}
	}()
	for _, name := range o.paths {
		p, ok := paths[name]
		if !ok {
			return fmt.Errorf("there is no path %q", name)
		}
		counts := o.services
		if p.alone {
			counts = []int{0}
		}
		for _, n := range counts {
			start := time.Now()
			l, err := newLane(ctx, p, name, n, o)
			if err != nil {
				return fmt.Errorf("set up %s with %d services: %w", name, n, err)
			}
			lanes = append(lanes, l)
			fmt.Fprintf(os.Stderr, "%s is set up in %s\n", l.name, time.Since(start).Round(time.Millisecond))
		}
	}
	for round := range o.rounds {
		for i := range lanes {
			l := lanes[(round+i)%len(lanes)]
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := l.measure(o.time); err != nil {
				return fmt.Errorf("measure %s: %w", l.name, err)
			}
		}
	}
	table(os.Stdout, lanes)
	return nil
}

// lane is one path on its bed, with the processes that use it and what they measured.
type lane struct {
	name    string
	bed     *bed
	client  *process
	servers []*process
	target  string
	figures map[string][]float64 // by metric, one a round
}

func newLane(ctx context.Context, p path, name string, services int, o options) (l *lane, err error) {
	l = &lane{name: name, figures: map[string][]float64{}}
	if services > 0 {
		l.name = fmt.Sprintf("%s %d", name, services)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
			l = nil
		}
	}()
	if l.bed, err = newBed(o.attach, o.backends); err != nil {
		return l, err
	}
	for _, s := range l.bed.servers {
		proc, err := start(s, serverCPU, "server", port)
		if err != nil {
			return l, err
		}
		l.servers = append(l.servers, proc)
	}
	if l.target, err = p.setup(ctx, l.bed, services); err != nil {
		return l, err
	}
	l.client, err = start(l.bed.client, clientCPU, "client", l.target)
	return l, err
}

func (l *lane) close() error {
	var err error
	for _, p := range append(l.servers, l.client) {
		if p != nil {
			err = errors.Join(err, p.stop())
		}
	}
	if l.bed != nil {
		err = errors.Join(err, l.bed.close())
	}
	return err
}

// measure adds one round's figures.
func (l *lane) measure(d time.Duration) error {
	for _, what := range []string{"stream", "connect", "rr"} {
		before, err := l.cpu()
		if err != nil {
			return err
		}
		a, err := l.client.ask(what, d)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		after, err := l.cpu()
		if err != nil {
			return err
		}
		add := func(metric string, v float64) { l.figures[metric] = append(l.figures[metric], v) }
		switch what {
		case "stream":
			add(gbits, float64(a.Count)*8/a.Seconds/1e9)
		case "connect":
			add(connections, float64(a.Count)/a.Seconds)
			add(cpuTime, (after-before).Seconds()*1e6/float64(a.Count))
		case "rr":
			add(p50, a.P50)
			add(p99, a.P99)
		}
	}
	return nil
}
