// Vmtest runs this module's tests and programs on other kernels.
//
//	vmtest test [flags] PACKAGE...   the tests of the packages, on each kernel, one boot a kernel
//	vmtest run [flags] STEPS         the commands in the file STEPS, one a line, on each kernel
//	vmtest record [flags]            write testdata/features, from real runs
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"plumb.internal/plumb/internal/vmtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("expected one of test, run, record")
	}
	o := options{}
	set := flag.NewFlagSet("vmtest "+args[0], flag.ContinueOnError)
	set.StringVar(&o.kernels, "kernels", "5.10-amd64 6.1-amd64 6.12-amd64", "`names` of kernels, separated by spaces")
	set.StringVar(&o.dir, "C", ".", "the module's `folder`")
	set.StringVar(&o.cache, "cache", "", "`folder` for kernels and binaries (default .cache in the module's folder)")
	set.StringVar(&o.plumb, "plumb", "", "static plumb `binary` to take along as /bin/plumb, and to name in PLUMB_BIN")
	set.StringVar(&o.programs, "programs", hostPrograms, "`names` of programs of this machine to take along, for machines of its architecture")
	set.StringVar(&o.args, "args", "", "more `arguments` for the test binaries, separated by spaces")
	set.StringVar(&o.out, "out", "", "`folder` for the files that steps leave in /out, one folder a kernel")
	set.IntVar(&o.cpus, "cpus", 2, "`number` of processors of a machine")
	set.IntVar(&o.atOnce, "at-once", 1, "`number` of machines that run at a time")
	set.DurationVar(&o.timeout, "timeout", 3*time.Minute, "for one machine; ten times as much where it is emulated in software")
	set.BoolVar(&o.counted, "counted", false, "let the machine's clock count instructions: benchmarks say how many there were")
	set.BoolVar(&o.verbose, "v", false, "print everything as it comes")
	if err := set.Parse(args[1:]); err != nil {
		return err
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return err
	}
	if o.cache == "" {
		o.cache = filepath.Join(dir, ".cache")
	}
	if o.cache, err = filepath.Abs(o.cache); err != nil {
		return err
	}
	o.source = vmtest.Source{Dir: dir, Cache: o.cache}
	switch {
	case args[0] == "test" && set.NArg() > 0:
		return o.test(ctx, set.Args())
	case args[0] == "run" && set.NArg() == 1:
		return o.run(ctx, set.Arg(0))
	case args[0] == "record" && set.NArg() == 0:
		return o.record(ctx)
	}
	return fmt.Errorf("%s: unknown command, or wrong number of arguments", strings.Join(args, " "))
}

// hostPrograms are what the tests and the examples call.
const hostPrograms = "sh bash ip tc nft ping ss sysctl unshare nsenter setpriv mount umount findmnt strace timeout sleep cat ls mkdir rm rmdir touch " +
	"cp mv ln chmod true false echo test head tail sort uniq wc tr cut grep sed find xargs env id stat readlink dirname basename mktemp kill ps uname date diff cmp tee seq printf"

type options struct {
	source                                          vmtest.Source
	kernels, dir, cache, plumb, programs, args, out string
	cpus, atOnce                                    int
	timeout                                         time.Duration
	counted, verbose                                bool
}

// test runs the test binaries of the packages.
func (o options) test(ctx context.Context, patterns []string) error {
	built := map[string][]vmtest.Package{} // by architecture: once for all kernels
	return o.each(ctx, "packages", func(m *vmtest.Machine, root *vmtest.Root) ([]vmtest.Step, error) {
		pkgs, ok := built[m.Kernel.Arch]
		if !ok {
			var err error
			if pkgs, err = o.source.Tests(ctx, m.Kernel.Arch, patterns); err != nil {
				return nil, err
			}
			built[m.Kernel.Arch] = pkgs
		}
		var steps []vmtest.Step
		for _, p := range pkgs {
			guest := "/tests/" + filepath.Base(p.Binary)
			if err := root.Put(p.Binary, guest, nil); err != nil {
				return nil, err
			}
			// What hangs says where: half of the machine's time leaves it some for that.
			argv := append([]string{guest, "-test.v", "-test.timeout=" + (m.Timeout / 2).String()}, strings.Fields(o.args)...)
			steps = append(steps, vmtest.Step{Name: p.Dir, Argv: argv, Dir: "/src/" + p.Dir})
		}
		return steps, nil
	})
}

// run runs the commands that a file lists: one a line, words separated by spaces, # for comments.
func (o options) run(ctx context.Context, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read steps: %w", err)
	}
	defer f.Close()
	var steps []vmtest.Step
	for in := bufio.NewScanner(f); in.Scan(); {
		line := strings.TrimSpace(in.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		steps = append(steps, vmtest.Step{Name: line, Argv: strings.Fields(line), Dir: "/src"})
	}
	return o.each(ctx, "commands", func(*vmtest.Machine, *vmtest.Root) ([]vmtest.Step, error) { return steps, nil })
}

// each starts a machine for every kernel, to run the steps that prepare returns; what is the word for them.
func (o options) each(ctx context.Context, what string, prepare func(*vmtest.Machine, *vmtest.Root) ([]vmtest.Step, error)) error {
	kernels, err := o.source.Kernels(ctx, strings.Fields(o.kernels))
	if err != nil {
		return err
	}
	errs := make([]error, len(kernels))
	var machines errgroup.Group
	machines.SetLimit(o.atOnce)
	var alone sync.Mutex
	for i, k := range kernels {
		machines.Go(func() error {
			errs[i] = o.one(ctx, k, what, &alone, prepare)
			return nil // the other machines go on
		})
	}
	_ = machines.Wait()
	return errors.Join(errs...)
}

// one runs one machine. It holds alone while it builds, and while it says what came of it.
func (o options) one(ctx context.Context, k *vmtest.Kernel, what string, alone *sync.Mutex, prepare func(*vmtest.Machine, *vmtest.Root) ([]vmtest.Step, error)) error {
	m := &vmtest.Machine{Kernel: k, CPUs: o.cpus, Counted: o.counted, Timeout: o.timeout}
	how := "with KVM"
	if m.Slow() {
		m.Timeout *= 10
		how = "emulated in software"
	}
	if o.verbose {
		m.Live = os.Stdout
	}
	alone.Lock()
	root, job, err := o.load(ctx, m, prepare)
	alone.Unlock()
	if err != nil {
		return err
	}
	start := time.Now()
	outcome, err := m.Run(ctx, root, job)
	if outcome == nil {
		return err
	}
	alone.Lock()
	defer alone.Unlock()
	outcome.Summarize(os.Stdout, k.Name)
	n := outcome.Totals(len(job.Steps))
	fmt.Printf("kernel %s, %s: %d %s ok, %d failed; %d tests passed, %d skipped; %.0fs, of them %.0fs to start\n\n", k.Name, how, n.OK, what, n.Failed,
		n.Passed, n.Skipped, time.Since(start).Seconds(), outcome.Up)
	if err == nil && n.Failed > 0 {
		err = fmt.Errorf("kernel %s: %d of %d %s failed", k.Name, n.Failed, len(job.Steps), what)
	}
	if o.out != "" {
		err = errors.Join(err, save(filepath.Join(o.out, k.Name), outcome.Files))
	}
	return err
}

// load puts together what a machine takes along, and what it does with it.
func (o options) load(ctx context.Context, m *vmtest.Machine, prepare func(*vmtest.Machine, *vmtest.Root) ([]vmtest.Step, error)) (*vmtest.Root, vmtest.Job, error) {
	job := vmtest.Job{Env: []string{"CI=" + os.Getenv("CI"), "PLUMB_EVAL_TIME=90s"}} // emulated, all takes 20 to 40 times as long
	root, err := o.source.Root(ctx, m.Kernel.Arch)
	if err != nil {
		return nil, job, err
	}
	if o.plumb != "" {
		if err := root.Put(o.plumb, "bin/plumb", nil); err != nil {
			return nil, job, err
		}
		job.Env = append(job.Env, "PLUMB_BIN=/bin/plumb")
	}
	if m.Kernel.Arch != runtime.GOARCH {
		if err := root.PutTools(m.Kernel.Tools); err != nil {
			return nil, job, err
		}
	} else {
		for _, p := range strings.Fields(o.programs) {
			if err := root.PutProgram(p); err != nil {
				return nil, job, err
			}
		}
	}
	if job.Steps, err = prepare(m, root); err != nil {
		return nil, job, err
	}
	return root, job, nil
}

// save writes the files of a guest, whose names can't leave the folder.
func save(dir string, files map[string][]byte) error {
	if len(files) == 0 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save files: %w", err)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), data, 0o644); err != nil {
			return fmt.Errorf("save files: %w", err)
		}
	}
	return nil
}
