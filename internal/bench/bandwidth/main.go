// Command bandwidth measures what becomes of limits of what a pod sends and gets, on this kernel:
//
//	bench-bandwidth [-limits none,10M,…] [-flows 1,8] [-manager on,off] [-routing bpf,legacy] [-queues N]
//		[-bottleneck 20M] [-attach veth] [-seconds S]
//
// The limits are set on one pod, live, one after the other, and asked for by so many TCP connections at once, to and from a
// host behind the node's uplink; and by one sender of datagrams that doesn't listen, at twice the limit's rate. Then the same
// connections go by a router behind the uplink that is slower than the pod's limit, holds a second's worth, and is 20 ms away:
// by each kind of queue, with cubic and with BBR.
//
//	main.go  flags, cases, tables
//	bed.go   a node with its pod, a router behind the uplink, and a host behind that
//	flows.go connections, and what they say of themselves
//
// Rates are those of frames of 1514 bytes, as the limits count them. Round trips are those of another connection of the same
// pod, which sends one byte at a time: what a limit makes everybody in the pod wait.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"plumb.internal/plumb/internal/bench/lanes"
	"plumb.internal/plumb/schema"
)

// options are what to measure.
type options struct {
	limits, managers []string
	routings         []string
	flows            []int
	attach           string
	bottleneck       string
	time             time.Duration
}

func main() {
	if lanes.IsChild() {
		return
	}
	limits := flag.String("limits", "none,10M,50M,200M", "`limits` of the pod, in this order; none: unlimited; empty: without")
	managers := flag.String("manager", "on,off", "`values` of tuning.bandwidthManager: by fq on the uplink, or by a queue of the pod's")
	flows := flag.String("flows", "1,8", "`numbers` of connections at once")
	attach := flag.String("attach", "veth", "how the pod is attached")
	routings := flag.String("routing", "bpf,legacy", "`values` of routing.hostRouting: packets keep their sockets, or lose them in the node's stack")
	bottleneck := flag.String("bottleneck", "20M", "the router's `rate` for cubic and BBR; empty: without")
	queues := flag.Int("queues", 1, "`number` of queues that the uplink sends by: with more there is an fq for each, below mq")
	seconds := flag.Float64("seconds", 10, "length of one measurement")
	flag.Parse()
	o := options{limits: strings.Split(*limits, ","), managers: strings.Split(*managers, ","),
		routings: strings.Split(*routings, ","), attach: *attach, bottleneck: *bottleneck,
		time: time.Duration(*seconds * float64(time.Second))}
	for _, n := range strings.Split(*flows, ",") {
		k, err := strconv.Atoi(n)
		if err != nil || k < 1 {
			fmt.Fprintf(os.Stderr, "-flows: %q is no number of connections\n", n)
			os.Exit(1)
		}
		o.flows = append(o.flows, k)
	}
	lanes.Main(func(ctx context.Context, g *lanes.Ground) error {
		g.Queues = *queues
		return o.measure(ctx, g)
	})
}

func (o options) measure(ctx context.Context, g *lanes.Ground) (err error) {
	b, err := newBed(g)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	for _, manager := range o.managers {
		for _, routing := range o.routings {
			if o.limits[0] == "" {
				break
			}
			if err := o.limited(ctx, b, manager, routing); err != nil {
				return fmt.Errorf("bandwidthManager %s, hostRouting %s: %w", manager, routing, err)
			}
		}
	}
	if o.bottleneck == "" {
		return nil
	}
	if err := b.narrow(o.bottleneck); err != nil {
		return err
	}
	for _, manager := range o.managers {
		fmt.Printf("\n%s, a router of %s and 20 ms, bandwidthManager %s, %v each\n", o.attach, o.bottleneck, manager, o.time)
		fmt.Printf("%-8s %5s %10s %10s %12s %12s\n", "control", "flows", "Mbit/s", "resent", "RTT p50 ms", "RTT p99 ms")
		for _, control := range []string{"cubic", "bbr"} {
			if err := b.converge(ctx, o.config(manager, o.routings[0], "1G", control)); err != nil {
				return err
			}
			for _, n := range o.flows {
				f, err := b.run(out, n, 0, o.time)
				if err != nil {
					return fmt.Errorf("%s, %s, %d flows: %w", manager, control, n, err)
				}
				fmt.Printf("%-8s %5d %10.2f %10s %12.1f %12.1f\n", control, n, f.rate/1e6, f.resent(), ms(f.p50), ms(f.p99))
			}
		}
	}
	return nil
}

// limited prints the table of one kind of queue.
func (o options) limited(ctx context.Context, b *bed, manager, routing string) error {
	fmt.Printf("\n%s, bandwidthManager %s, hostRouting %s, %v each\n", o.attach, manager, routing, o.time)
	fmt.Printf("%-8s %-12s %10s %9s %9s %9s %9s %9s %9s\n", "limit", "flows", "Mbit/s", "of limit", "resent", "p50 ms", "p99 ms", "too-fast", "qdisc")
	for _, limit := range o.limits {
		if err := b.converge(ctx, o.config(manager, routing, limit, "")); err != nil {
			return err
		}
		show := func(name string, f figures, err error) error {
			if err != nil {
				return fmt.Errorf("%s, %s: %w", limit, name, err)
			}
			fmt.Printf("%-8s %-12s %10.2f %9s %9s %9.1f %9.1f %9d %9d\n", limit, name, f.rate/1e6, share(f.rate, limit), f.resent(),
				ms(f.p50), ms(f.p99), f.tooFast, f.dropped)
			return nil
		}
		for _, way := range []string{out, in} {
			for _, n := range o.flows {
				f, err := b.run(way, n, 0, o.time)
				if err := show(fmt.Sprintf("%d %s", n, way), f, err); err != nil {
					return err
				}
			}
			if limit != none {
				f, err := b.run(way, 0, 2*bits(limit), o.time)
				if err := show("datagrams "+way, f, err); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// none is no limit.
const none = "none"

// config is the node as a user would write it.
func (o options) config(manager, routing, limit, control string) *schema.Config {
	if limit == none {
		limit = ""
	}
	return &schema.Config{
		Nodes: map[string]schema.Node{
			node: {Uplinks: []string{lanes.Uplink}, Addresses: []string{near.String()}, PodCIDRs: []string{podPrefix.String()}},
		},
		Pods: map[string]schema.Pod{"client": {Node: node, Attach: o.attach, Addresses: []string{podAddr.String()},
			Bandwidth: schema.Bandwidth{Egress: limit, Ingress: limit}, CongestionControl: control}},
		Routing: schema.Routing{HostRouting: routing},
		Tuning:  schema.Tuning{BandwidthManager: manager},
	}
}

func share(rate float64, limit string) string {
	if limit == none {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", 100*rate/bits(limit))
}

// bits reads a rate such as 10M.
func bits(limit string) float64 {
	n, _ := strconv.ParseFloat(limit[:len(limit)-1], 64)
	return n * map[byte]float64{'K': 1e3, 'M': 1e6, 'G': 1e9}[limit[len(limit)-1]]
}

func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }
