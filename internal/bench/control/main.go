// Command control measures the control plane of services: from files to the last service that answers, the maps alone,
// and the change of one backend, beside nftables with one map of the same services (one backend each). Sides alternate.
// Times are medians with the least and the most; processor time is what to go by on a shared machine.
//
//	control [-rounds N] [-n 1000,10000] [-only apply,nft,changes]      as root; bin/plumb must be built
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
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
	rounds := flag.Int("rounds", 5, "rounds, of which each makes everything from nothing")
	sizes := flag.String("n", "1000,10000", "numbers of services, with three backends each")
	only := flag.String("only", "apply,nft,changes", "what to measure")
	one := flag.String("one", "", "internal: what this process measures in its private namespaces")
	profile := flag.String("profile", "", "write the processor profile of the changes to this file")
	flag.Parse()
	if *one != "" {
		return inPrivate(*one, flag.Args())
	}
	if os.Getuid() != 0 {
		return errors.New("network namespaces need root")
	}
	plumb, err := filepath.Abs("bin/plumb")
	if err != nil {
		return err
	}
	if _, err := os.Stat(plumb); err != nil {
		return fmt.Errorf("%w: run `make build` first", err)
	}
	for _, word := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 2 {
			return fmt.Errorf("%q is no number of services", word)
		}
		if err := measure(plumb, n, *rounds, *only, *profile); err != nil {
			return fmt.Errorf("%d services: %w", n, err)
		}
	}
	return nil
}

// figures are what one process measured, by name: milliseconds, or what the name says.
type figures map[string][]float64

func (f figures) add(name string, v float64) { f[name] = append(f[name], v) }

// measure measures one number of services.
func measure(plumb string, n, rounds int, only, profile string) error {
	dir, err := os.MkdirTemp("", "plumb-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := writeRepository(dir, n, -1); err != nil {
		return err
	}
	all := figures{}
	for range rounds {
		for _, args := range [][]string{{"apply", plumb}, {"nft"}, {"changes", profile}} {
			if !strings.Contains(only, args[0]) {
				continue
			}
			f, err := private(args[0], append([]string{dir, strconv.Itoa(n)}, args[1:]...))
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			for name, vs := range f {
				all[name] = append(all[name], vs...)
			}
		}
	}
	fmt.Printf("\n%d services of %d backends, %d rounds: median [least–most]\n", n, backendsEach, rounds)
	for _, name := range slices.SortedFunc(keys(all), strings.Compare) {
		vs := slices.Sorted(slices.Values(all[name]))
		_, name, _ := strings.Cut(name, " ")
		fmt.Printf("  %-66s %9.1f  [%.1f–%.1f]%s\n", name, vs[len(vs)/2], vs[0], vs[len(vs)-1], marks[fmt.Sprint(n, " ", name)])
	}
	for _, of := range [][2]string{
		{"j   of which maps programmed", "h nft -f, one map"},
		{"l one backend changed: observe, diff and apply", "r nft -f, one element changed"},
	} {
		a, b := slices.Sorted(slices.Values(all[of[0]+byProcessor])), slices.Sorted(slices.Values(all[of[1]+byProcessor]))
		if len(a) > 0 && len(b) > 0 {
			fmt.Printf("  ratio, by processor: %s / %s: %.2f\n", strings.TrimSpace(of[0][2:]), of[1][2:], a[len(a)/2]/b[len(b)/2])
		}
	}
	return nil
}

// byProcessor ends the names of figures that are processor time.
const byProcessor = ", ms of processor"

// marks are what the figures are judged by, on a machine with nothing else to do.
var marks = map[string]string{
	"10000 plumb apply from nothing, ms":                                        "  mark 1500, aim 350",
	"10000   of which maps programmed, ms":                                      "  mark 500, aim 100",
	"50000 one backend changed: observe, diff and apply, ms":                    "  mark 50, aim 5",
	"50000 one backend changed, by itself: observe, diff, apply and verify, ms": "  mark 50, aim 5",
	"50000 plumb apply after one backend changed in the files, ms":              "  Cilium 4000",
}

func keys(f figures) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range f {
			if !yield(k) {
				return
			}
		}
	}
}

// private runs this program again, in network and mount namespaces and a cgroup of its own, and returns its figures.
func private(what string, args []string) (f figures, err error) {
	top, err := host.Mount("cgroup2")
	if err != nil {
		return nil, fmt.Errorf("socket programs need cgroup2: %w", err)
	}
	cgroup, err := os.MkdirTemp(top, "plumb-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.Remove(cgroup)) }()
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	c := exec.Command("/proc/self/exe", append([]string{"-one", what, cgroup}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
		UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return nil, err
	}
	return f, json.Unmarshal(out, &f)
}
