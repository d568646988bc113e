// Command icount runs bench-datapath -count, or bench-routing -count, in a virtual machine whose clock counts instructions:
// what a connection and a round trip cost by each path, the same on every machine and under every load. It also runs
// bench-bandwidth, whose connections are timed by that clock.
//
//	bench-icount [-kernel 6.12-amd64] [-attach veth,…] [-paths direct,…] [-services 1,1000] [-rounds N] [-count N]
//	bench-icount -routing [-kernel 6.12-amd64] [-attach veth,…] [-rules none,0,1000] [-rounds N] [-count N]
//	bench-icount -bandwidth [-kernel 6.12-amd64] [-attach veth,…] [-- arguments of bench-bandwidth]
//
// Client and server are one thread, on one processor, so that nothing waits for a scheduler, or with -apart two processes,
// whose wakings are counted too; a nanosecond of the machine is one
// instruction, of the kernel's and of the little that the thread does itself. What caches do isn't in these figures:
// a table of 10,000 services costs the instructions of one with 1,000.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"plumb.internal/plumb/internal/vmtest"
)

func main() {
	kernel := flag.String("kernel", "6.12-amd64", "`name` of the kernel")
	attach := flag.String("attach", "veth,netkit,bridge,macvlan,ipvlan-l2", "`names` of attachments")
	paths := flag.String("paths", "direct,bare,programs,plumb,socket,packet,nft,kubeproxy", "`names` of paths; the others are compared with the first")
	routing := flag.Bool("routing", false, "ways to a host behind the uplink, instead of paths to services")
	bandwidth := flag.Bool("bandwidth", false, "limits of bandwidth, instead of paths to services")
	rules := flag.String("rules", "none,0,1000", "`numbers` of rules in the firewall that these ways pass; none: without one")
	services := flag.String("services", "1", "`numbers` of services on the node")
	rounds := flag.Int("rounds", 5, "rounds over all paths of an attachment")
	count := flag.Int("count", 500, "connections and round trips of one measurement")
	apart := flag.Bool("apart", false, "client and server are two processes")
	timeout := flag.Duration("timeout", time.Hour, "for the whole machine")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	program, argv := "datapath", []string{"-paths", *paths, "-services", *services}
	if *routing {
		program, argv = "routing", []string{"-rules", *rules}
	}
	argv = append(argv, "-rounds", strconv.Itoa(*rounds), "-count", strconv.Itoa(*count), "-apart="+strconv.FormatBool(*apart))
	if *bandwidth {
		program, argv = "bandwidth", flag.Args()
	}
	if err := run(ctx, *kernel, program, strings.Split(*attach, ","), argv, *timeout); err != nil {
		fmt.Fprintln(os.Stderr, "bench-icount:", err)
		os.Exit(1)
	}
}

// run has one machine measure all attachments, one after the other.
func run(ctx context.Context, kernel, name string, attach, argv []string, timeout time.Duration) error {
	dir, err := filepath.Abs(".")
	if err != nil {
		return err
	}
	s := vmtest.Source{Dir: dir, Cache: filepath.Join(dir, ".cache")}
	kernels, err := s.Kernels(ctx, []string{kernel})
	if err != nil {
		return err
	}
	k := kernels[0]
	program, err := s.Program(ctx, k.Arch, "./internal/bench/"+name)
	if err != nil {
		return err
	}
	root, err := s.Root(ctx, k.Arch)
	if err != nil {
		return err
	}
	bin := "bin/bench-" + name
	if err := errors.Join(root.Put(program, bin, nil), root.PutProgram("nft")); err != nil {
		return err
	}
	var job vmtest.Job
	for _, a := range attach {
		job.Steps = append(job.Steps, vmtest.Step{Name: a, Argv: slices.Concat([]string{"/" + bin}, argv, []string{"-attach", a})})
	}
	m := &vmtest.Machine{Kernel: k, Counted: true, Timeout: timeout, Live: os.Stdout}
	out, err := m.Run(ctx, root, job)
	if err != nil {
		return err
	}
	for _, r := range out.Results {
		if !r.OK() {
			err = errors.Join(err, fmt.Errorf("%s: exit %d %s", r.Name, r.End.Exit, r.End.Error))
		}
	}
	return err
}
