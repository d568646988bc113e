// Command datapath measures what a way to a service costs beside talking to the pod itself, on this kernel:
//
//	bench-datapath [-rounds N] [-attach veth,bridge,…] [-services 1,10000] [-paths direct,plumb,…] [-seconds S | -count N [-apart]]
//
// Every path has a bed of its own: a node, a client pod and server pods in network namespaces that live as long as the
// run, with nothing else in them, so that paths share no connection, no port and no rule. Rounds go over all paths in
// turn, each round beginning with another one, and every figure is compared with the first path's of the same round:
// medians of the ratios, with the 95 % interval of a bootstrap. Absolute figures mean little on a shared machine.
//
//	main.go    flags, rounds
//	ground.go  what all beds stand on: a mount namespace of this process's own
//	bed.go     a node with its pods, by plumb's compiler and reconciler
//	paths.go   what is measured: a path is a name, a configuration, and a target
//	kubeproxy.go  the anchor above, a ruleset in kube-proxy's shape, loaded by nft
//	bare.go    the anchor below, a redirect and nothing else
//	load.go    starting client and servers, processes of this binary that are pinned to one CPU each
//	child.go   what they do
//	count.go   or, with -count, both in one thread, timed
//	figures.go medians, intervals, the table
//
// A connection costs what the cgroup of its client and server ran, with the softirqs that ran in them, which are nearly
// all; what the kernel's softirq threads did meanwhile, for anybody, is said below the table. With -count the figures are
// the clock's: cmd icount runs that on a machine whose clock counts instructions.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"plumb.internal/plumb/compiler"
)

type options struct {
	rounds   int
	time     time.Duration // of one measurement
	count    int           // instead: operations of one measurement
	apart    bool          // and then: client and server are two processes
	services []int
	paths    []string
	backends int
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "-child" {
		child(os.Args[2:])
		return
	}
	if compiler.RunEvaluator() {
		return
	}
	o := options{}
	seconds := flag.Float64("seconds", 0.3, "length of one measurement")
	services := flag.String("services", "1,10000", "`numbers` of services on the node")
	attach := flag.String("attach", "veth,bridge,macvlan", "`names` of attachments, one after the other")
	names := flag.String("paths", "direct,programs,plumb,socket,packet,nft,kubeproxy", "`names` of paths; the others are compared with the first")
	flag.IntVar(&o.rounds, "rounds", 120, "rounds over all paths; claims below 10 % need 120")
	flag.IntVar(&o.count, "count", 0, "time `N` operations in one thread instead")
	flag.BoolVar(&o.apart, "apart", false, "with -count: in two processes, one operation after the other")
	flag.IntVar(&o.backends, "backends", 1, "backends of a service")
	flag.Parse()
	o.time = time.Duration(*seconds * float64(time.Second))
	o.paths = strings.Split(*names, ",")
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench-datapath:", err)
			os.Exit(1)
		}
	}
	for _, n := range strings.Split(*services, ",") {
		k, err := strconv.Atoi(n)
		if err != nil || k < 1 {
			fail(fmt.Errorf("-services: %q is no number of services", n))
		}
		o.services = append(o.services, k)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case os.Getuid() != 0:
		fail(errors.New("network namespaces need root"))
	case os.Getenv(inside) == "":
		err := alone(ctx)
		if exit := new(exec.ExitError); errors.As(err, &exit) { // and has said why
			os.Exit(max(exit.ExitCode(), 1))
		}
		fail(err)
	default:
		fail(run(ctx, o, strings.Split(*attach, ",")))
	}
}

func run(ctx context.Context, o options, attach []string) error {
	g, err := newGround(ctx)
	if err != nil {
		return err
	}
	for _, a := range attach {
		if err = o.measure(ctx, g, a); err != nil {
			err = fmt.Errorf("%s: %w", a, err)
			break
		}
	}
	return errors.Join(err, g.close())
}

// measure goes over all paths of one attachment, and prints the tables.
func (o options) measure(ctx context.Context, g *ground, attach string) (err error) {
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
		if name == "bare" && attach != "veth" && attach != "netkit" {
			continue // they have no peer to redirect to
		}
		for _, n := range counts {
			start := time.Now()
			l, err := o.newLane(ctx, g, attach, name, p, n)
			if err != nil {
				return fmt.Errorf("set up %s with %d services: %w", name, n, err)
			}
			lanes = append(lanes, l)
			fmt.Fprintf(os.Stderr, "%s, %s is set up in %s\n", attach, l.name, time.Since(start).Round(time.Millisecond))
		}
	}
	before, err := softirqs()
	if err != nil {
		return err
	}
	start := time.Now()
	// A first round fills caches and meets every port for the first time. It doesn't count, and shows what doesn't work at all.
	for _, l := range slices.Clone(lanes) {
		if err := l.measure(o); err != nil {
			fmt.Printf("%s doesn't work with %s, and is left out: %v\n", l.name, attach, err)
			_ = l.close() // its client was killed for not coming back
			lanes = slices.DeleteFunc(lanes, func(other *lane) bool { return other == l })
			continue
		}
		clear(l.figures)
	}
	if len(lanes) == 0 {
		return errors.New("nothing works")
	}
	for round := range o.rounds {
		for i := range lanes {
			l := lanes[(round+i)%len(lanes)]
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := l.measure(o); err != nil {
				return fmt.Errorf("measure %s: %w", l.name, err)
			}
		}
	}
	fmt.Printf("\n%s, %d rounds", attach, o.rounds)
	if o.count > 0 {
		fmt.Printf(" of %d\n", o.count)
		table(os.Stdout, perConnection, lanes)
		table(os.Stdout, perRoundTrip, lanes)
		return nil
	}
	after, err := softirqs()
	if err != nil {
		return err
	}
	fmt.Printf(" of %v\n", o.time)
	for _, m := range []metric{gbits, connections, cpuTime, p50, p99} {
		table(os.Stdout, m, lanes)
	}
	fmt.Printf("\nsoftirq threads had %.1f %% of both CPUs meanwhile\n", 50*(after-before).Seconds()/time.Since(start).Seconds())
	return nil
}

// lane is one path on its bed, with the processes that use it and what they measured.
type lane struct {
	name    string
	path    path
	bed     *bed
	client  *process
	servers []*process
	figures map[metric][]float64 // one a round
}

func (o options) newLane(ctx context.Context, g *ground, attach, name string, p path, services int) (l *lane, err error) {
	l = &lane{name: name, path: p, figures: map[metric][]float64{}}
	if services > 0 {
		l.name = fmt.Sprintf("%s %d", name, services)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
			l = nil
		}
	}()
	if l.bed, err = newBed(ctx, g, attach, p, services, o.backends); err != nil {
		return l, err
	}
	if p.extra != nil {
		if err := p.extra(ctx, l.bed, services); err != nil {
			return l, err
		}
	}
	to := p.target(l.bed)
	if o.count > 0 && !o.apart {
		l.client, err = startCounter(l.bed, to)
		return l, err
	}
	for _, s := range l.bed.servers {
		proc, err := l.bed.start(s, serverCPU, nil, "server", port)
		if err != nil {
			return l, err
		}
		l.servers = append(l.servers, proc)
	}
	l.client, err = l.bed.start(l.bed.client, clientCPU, nil, "client", to.String())
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
func (l *lane) measure(o options) error {
	if o.count > 0 {
		return l.counts(o.count)
	}
	for _, what := range []string{"stream", "connect", "rr"} {
		before, err := l.bed.cpu()
		if err != nil {
			return err
		}
		a, err := l.client.ask(what, o.time)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		after, err := l.bed.cpu()
		if err != nil {
			return err
		}
		add := func(m metric, v float64) { l.figures[m] = append(l.figures[m], v) }
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
