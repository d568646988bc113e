// Package lanes measures what ways from a client to a server cost beside each other, for the commands in the folders
// around it.
//
// Every lane has a bed of its own: a node with its pods and a host that its uplink leads to, in network namespaces that
// live as long as the run, with nothing else in them, so that lanes share no connection, no port and no rule. Rounds go
// over all lanes in turn, each round beginning with another one, and every figure is compared with that of another lane
// in the same round: medians of the ratios, with the 95 % interval of a bootstrap. Absolute figures mean little on a
// shared machine.
//
//	lanes.go    lanes and rounds
//	ground.go   what all beds stand on: a mount namespace of this process's own
//	bed.go      a node with its pods, by plumb's compiler and reconciler
//	process.go  starting client and servers, processes of this binary that are pinned to one CPU each
//	child.go    what a client does
//	server.go   and a server
//	count.go    or both in one thread, timed
//	figures.go  medians, intervals, the table
//
// A connection costs what the cgroup of its client and server ran, with the softirqs that ran in them, which are nearly
// all; what the kernel's softirq threads did meanwhile, for anybody, is said below the tables. When operations are counted
// the figures are the clock's: cmd icount runs that on a machine whose clock counts instructions.
package lanes

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"
)

// Options say how long to measure.
type Options struct {
	Rounds int
	Time   time.Duration // of one measurement
	Count  int           // instead: operations of one measurement, timed
	Apart  bool          // and then: client and server are two processes
	// Metrics are what is measured and printed, unless operations are counted.
	Metrics []Metric
}

// Flags are -rounds, -seconds, -count and -apart. The options are there once they are parsed.
func (o *Options) Flags(rounds int, seconds float64) {
	o.Time = time.Duration(seconds * float64(time.Second))
	flag.IntVar(&o.Rounds, "rounds", rounds, "rounds over everything; claims below 10 % need 120")
	flag.Func("seconds", fmt.Sprintf("length of one measurement (default %v)", seconds), func(s string) (err error) {
		o.Time, err = time.ParseDuration(s + "s")
		return err
	})
	flag.IntVar(&o.Count, "count", 0, "time `N` operations in one thread instead")
	flag.BoolVar(&o.Apart, "apart", false, "with -count: in two processes, one operation after the other")
}

// Lane is one way on its bed, with the processes that use it and what they measured.
type Lane struct {
	Name    string
	Note    func(Metric) string // what the table says behind a ratio; may be nil
	Check   func() error        // asked after each measurement; may be nil
	bed     *Bed
	client  *process
	servers []*process
	figures map[Metric][]float64 // one a round
}

// NewLane starts a client, and a server in each namespace of servers. The bed is the lane's from now on, also after an
// error.
func (o Options) NewLane(name string, b *Bed, client *os.File, servers []*os.File, to netip.AddrPort) (l *Lane, err error) {
	l = &Lane{Name: name, bed: b, figures: map[Metric][]float64{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
			l = nil
		}
	}()
	if o.Count > 0 && !o.Apart {
		l.client, err = startCounter(b, client, servers[0], to)
		return l, err
	}
	for _, s := range servers {
		p, err := b.start(s, serverCPU, nil, "server", fmt.Sprint(Port))
		if err != nil {
			return l, err
		}
		l.servers = append(l.servers, p)
	}
	l.client, err = b.start(client, clientCPU, nil, "client", to.String())
	return l, err
}

// Close ends the processes and lets the bed go.
func (l *Lane) Close() error {
	var err error
	for _, p := range append(l.servers, l.client) {
		if p != nil {
			err = errors.Join(err, p.stop())
		}
	}
	return errors.Join(err, l.bed.Close())
}

// Run measures all lanes, and returns those that work at all; the others are closed. Subject is what the output names.
func (o Options) Run(ctx context.Context, subject string, lanes []*Lane) (working []*Lane, err error) {
	if o.Rounds < 1 {
		return lanes, fmt.Errorf("%d rounds show nothing", o.Rounds)
	}
	start := time.Now()
	before, err := softirqs()
	if err != nil {
		return lanes, err
	}
	// A first round fills caches and meets every port for the first time. It doesn't count, and shows what doesn't work at all.
	for _, l := range lanes {
		if err := l.measure(o); err != nil {
			fmt.Printf("%s doesn't work with %s, and is left out: %v\n", l.Name, subject, err)
			_ = l.Close() // its client was killed for not coming back
			continue
		}
		clear(l.figures)
		working = append(working, l)
	}
	if len(working) == 0 {
		return nil, errors.New("nothing works")
	}
	for round := range o.Rounds {
		for i := range working {
			l := working[(round+i)%len(working)]
			if ctx.Err() != nil {
				return working, ctx.Err()
			}
			if err := l.measure(o); err != nil {
				return working, fmt.Errorf("measure %s: %w", l.Name, err)
			}
		}
	}
	after, err := softirqs()
	if err != nil {
		return working, err
	}
	fmt.Printf("\n%s, %d rounds", subject, o.Rounds)
	if o.Count > 0 {
		fmt.Printf(" of %d\n", o.Count)
		return working, nil
	}
	fmt.Printf(" of %v; softirq threads had %.1f %% of both CPUs meanwhile\n", o.Time,
		50*(after-before).Seconds()/time.Since(start).Seconds())
	return working, nil
}

// Print prints a table of each metric. Lanes are compared with the first one.
func (o Options) Print(lanes []*Lane) {
	metrics := o.Metrics
	if o.Count > 0 {
		metrics = []Metric{PerConnection, PerRoundTrip}
	}
	for _, m := range metrics {
		table(os.Stdout, m, lanes)
	}
}

// measured is what a client has to do for each metric.
var measured = map[Metric]string{
	Gbits: stream, CPUGbit: stream, GbitsIn: receive, CPUGbitIn: receive, Connections: connect, CPUConnection: connect,
	Transactions: roundTrips, CPUTransaction: roundTrips, P50: roundTrips, P99: roundTrips,
}

// measure adds one round's figures.
func (l *Lane) measure(o Options) (err error) {
	defer func() {
		if err == nil && l.Check != nil {
			err = l.Check()
		}
	}()
	if o.Count > 0 {
		return l.counts(o.Count)
	}
	for _, what := range []string{stream, receive, connect, roundTrips} {
		if !slices.ContainsFunc(o.Metrics, func(m Metric) bool { return measured[m] == what }) {
			continue
		}
		before, err := l.bed.cpu()
		if err != nil {
			return err
		}
		a, err := l.client.ask(what, o.Time)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		after, err := l.bed.cpu()
		if err != nil {
			return err
		}
		add := func(m Metric, v float64) { l.figures[m] = append(l.figures[m], v) }
		count, ran := float64(a.Count), (after - before).Seconds()
		switch what {
		case stream:
			add(Gbits, count*8/a.Seconds/1e9)
			add(CPUGbit, ran*1e3/(count*8/1e9))
		case receive:
			add(GbitsIn, count*8/a.Seconds/1e9)
			add(CPUGbitIn, ran*1e3/(count*8/1e9))
		case connect:
			add(Connections, count/a.Seconds)
			add(CPUConnection, ran*1e6/count)
		case roundTrips:
			add(Transactions, count/a.Seconds)
			add(CPUTransaction, ran*1e6/count)
			add(P50, a.P50)
			add(P99, a.P99)
		}
	}
	return nil
}

// Closed closes lanes, and joins what that said to err.
func Closed(lanes []*Lane, err error) error {
	for _, l := range slices.Backward(lanes) {
		err = errors.Join(err, l.Close())
	}
	return err
}
