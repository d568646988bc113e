// Command compile measures loading a repository of n pods and n services, guarded child included, beside plain CUE, which
// evaluates the same files with the same schema in a process of its own. Runs alternate, so that both see the same machine.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/cuecontext"
	"cuelang.org/go/cue/load"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/bench/gen"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/schema"
)

// figure is one run.
type figure struct {
	Time    time.Duration // of loading: from files to a checked configuration
	Compile time.Duration // from there to what should be; plumb alone
	PeakKB  int
}

func main() {
	if compiler.RunEvaluator() {
		return
	}
	n := flag.Int("n", 1000, "pods")
	services := flag.Int("services", -1, "services with three backends each; as many as pods if left out")
	runs := flag.Int("runs", 7, "runs of each, the median is printed")
	form := flag.String("form", string(gen.Literal), "literal, files or comprehension")
	plain := flag.Bool("plain", true, "measure plain CUE too")
	one := flag.String("one", "", "measure one run (plumb or cue) on -dir and print it as JSON")
	dir := flag.String("dir", "", "repository, for -one")
	flag.Parse()
	var err error
	if *one != "" {
		err = runOne(*one, *dir)
	} else {
		size := gen.Size{Pods: *n, Services: *services}
		if *services < 0 {
			size.Services = *n
		}
		err = compare(size, *runs, gen.Form(*form), *plain)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func compare(size gen.Size, runs int, form gen.Form, plain bool) error {
	dir, err := os.MkdirTemp("", "plumb-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := gen.Write(dir, size, form); err != nil {
		return err
	}
	// cue reads the schema from the folder, as plumb init leaves it there.
	vendored, err := os.MkdirTemp("", "plumb-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(vendored)
	if err := gen.Write(vendored, size, form); err != nil {
		return err
	}
	for name, text := range schema.Vendored() {
		name = filepath.Join(vendored, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, text, 0o644); err != nil {
			return err
		}
	}
	whats := []string{"plumb"}
	if plain {
		whats = append(whats, "cue")
	}
	figures := map[string][]figure{}
	for range runs {
		for _, what := range whats {
			d := dir
			if what == "cue" {
				d = vendored
			}
			cmd := exec.Command("/proc/self/exe", "-one", what, "-dir", d)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("measure %s: %w", what, err)
			}
			var f figure
			if err := json.Unmarshal(out, &f); err != nil {
				return err
			}
			figures[what] = append(figures[what], f)
		}
	}
	for _, what := range whats {
		fs := figures[what]
		var loads, compiles []time.Duration
		var peaks []int
		for _, f := range fs {
			loads, compiles, peaks = append(loads, f.Time), append(compiles, f.Compile), append(peaks, f.PeakKB)
		}
		fmt.Printf("%-6s %s %d+%d: load %s, peak %s MB, %d runs\n", what, form, size.Pods, size.Services,
			spread(loads, time.Millisecond), spread(peaks, 1<<10), len(fs))
		if what == "plumb" {
			fmt.Printf("%-6s %s %d+%d: compile %s\n", what, form, size.Pods, size.Services, spread(compiles, time.Millisecond))
		}
	}
	return nil
}

// spread is the median with the least and the most, in units.
func spread[T int | time.Duration](xs []T, unit T) string {
	slices.Sort(xs)
	in := func(x T) any { return any((x + unit/2) / unit) }
	if _, ok := any(unit).(time.Duration); ok {
		in = func(x T) any { return (x + unit/2) / unit * unit }
	}
	return fmt.Sprintf("%v (%v to %v)", in(xs[len(xs)/2]), in(xs[0]), in(xs[len(xs)-1]))
}

func runOne(what, dir string) error {
	start := time.Now()
	var f figure
	switch what {
	case "plumb":
		s, err := compiler.Load(context.Background(), dir, nil)
		f.Time = time.Since(start)
		if err != nil {
			return err
		}
		// Before the child is closed, so that both are counted.
		f.PeakKB = peak("self")
		for _, child := range children() {
			f.PeakKB += peak(child)
		}
		start = time.Now()
		c, err := compiler.Compile(s.Config, "bench", &features.Set{AcceptAll: true})
		f.Compile = time.Since(start)
		if err != nil {
			return err
		}
		runtime.KeepAlive(c)
		s.Close()
	case "cue":
		insts := load.Instances([]string{"."}, &load.Config{Dir: dir})
		if insts[0].Err != nil {
			return insts[0].Err
		}
		v := cuecontext.New().BuildInstance(insts[0])
		if err := v.Validate(cue.Concrete(true)); err != nil {
			return err
		}
		f.Time = time.Since(start)
		f.PeakKB = peak("self")
		runtime.KeepAlive(v)
	default:
		return fmt.Errorf("measure: no %q", what)
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

// peak is the most memory that a process had, in KB.
func peak(pid string) int {
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		var kb int
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
			return kb
		}
	}
	return 0
}

// children lists the processes that this one started.
func children() []string {
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return nil
	}
	var pids []string
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			continue
		}
		pids = append(pids, strings.Fields(string(b))...)
	}
	return pids
}
