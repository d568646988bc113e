// Command run measures plans and applies on the kernel, each figure beside an anchor in the same run, A B A B, as medians
// with the spread. Absolute times mean little on a shared machine: read the ratios.
//
//	run [-rounds N] [plan] [pods]      as root; bin/plumb must be built
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"plumb.internal/plumb/compiler"
)

func main() {
	if compiler.RunEvaluator() {
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	rounds := flag.Int("rounds", 7, "rounds of each pair")
	child := flag.String("child", "", "internal: what this process does in its private namespaces")
	flag.Parse()
	if *child != "" {
		return inPrivate(*child, flag.Args())
	}
	if os.Getuid() != 0 {
		return fmt.Errorf("network namespaces need root")
	}
	what := flag.Args()
	if len(what) == 0 {
		what = []string{"plan", "pods"}
	}
	fmt.Printf("%-44s %12s %12s   %s\n", "", "plumb", "anchor", "ratio: median [min–max]")
	for _, w := range what {
		var err error
		switch w {
		case "plan":
			err = benchPlan(*rounds)
		case "pods":
			err = benchPods(*rounds)
		default:
			err = fmt.Errorf("%q is neither plan nor pods", w)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", w, err)
		}
	}
	return nil
}

// pair is one round: what plumb took, and what its anchor took, in the same unit.
type pair struct{ plumb, anchor float64 }

// report prints the medians of both sides and the ratio's median and range over the rounds.
func report(name, unit string, mark string, ps []pair) {
	col := func(f func(pair) float64) []float64 {
		var v []float64
		for _, p := range ps {
			v = append(v, f(p))
		}
		slices.Sort(v)
		return v
	}
	a, b := col(func(p pair) float64 { return p.plumb }), col(func(p pair) float64 { return p.anchor })
	r := col(func(p pair) float64 { return p.plumb / p.anchor })
	fmt.Printf("%-44s %9.1f %-2s %9.1f %-2s   %.2f [%.2f–%.2f]  %s\n", name, a[len(a)/2], unit, b[len(b)/2], unit,
		r[len(r)/2], r[0], r[len(r)-1], mark)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// private runs this program again, in network and mount namespaces of its own with empty /run/netns, run folder and BPF
// file system, and returns what it printed.
func private(ctx context.Context, what string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, "/proc/self/exe", append([]string{"-child", what}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return out, settled(ctx)
}

// settled waits until the kernel has taken down the namespaces of the last measurement, so that they don't slow the next:
// a worker that is busy with it is called "kworker/…+netns".
func settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("namespaces are still being taken down: %w", ctx.Err())
		case <-tick.C:
		}
		names, err := filepath.Glob("/proc/[0-9]*/comm")
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(names, func(p string) bool {
			b, err := os.ReadFile(p)
			return err == nil && strings.HasPrefix(string(b), "kworker") && strings.Contains(string(b), "+netns")
		}) {
			return nil
		}
	}
}

func tempDir() (dir string, remove func(), err error) {
	dir, err = os.MkdirTemp("", "plumb-bench-")
	return dir, func() { os.RemoveAll(dir) }, err
}

// plumbBinary is the static binary that `make build` left.
func plumbBinary() (string, error) {
	p, err := filepath.Abs("bin/plumb")
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(p); err != nil {
		return "", fmt.Errorf("%w: run `make build` first", err)
	}
	return p, nil
}
