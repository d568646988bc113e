package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// idle measures what the daemon costs when nothing happens.
func (w *world) idle() error {
	time.Sleep(3 * time.Second) // it gives memory back first
	before, err := w.usage()
	if err != nil {
		return err
	}
	time.Sleep(time.Duration(w.Idle * float64(time.Second)))
	after, err := w.usage()
	if err != nil {
		return err
	}
	var goroutines float64
	if goroutines, err = w.metric("go_goroutines"); err != nil {
		return err
	}
	fmt.Printf("  idle: processor %.2f %%, %.1f wake-ups a second, RSS %.1f MB of which %.1f are its own (mark 60 at 1,000 and 150 at 10,000), %.0f goroutines\n",
		(after.cpu-before.cpu)/w.Idle*100, after.wakesSince(before)/w.Idle, after.rss, after.anonymous, goroutines)
	return nil
}

type usage struct {
	cpu, rss, anonymous float64
	wakes               map[string]float64 // by thread
}

// wakesSince are those of the threads that there were before, too.
func (u usage) wakesSince(before usage) (n float64) {
	for thread, was := range before.wakes {
		if is, ok := u.wakes[thread]; ok {
			n += is - was
		}
	}
	return n
}

// usage reads what the daemon has used so far: seconds, voluntary switches, MB (2^20 bytes).
func (w *world) usage() (u usage, err error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", w.daemon.Process.Pid))
	if err != nil {
		return u, err
	}
	u.wakes = map[string]float64{}
	for _, path := range tasks {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			var n float64
			if _, err := fmt.Sscanf(lines.Text(), "voluntary_ctxt_switches: %f", &n); err == nil {
				u.wakes[path] = n
			}
			if _, err := fmt.Sscanf(lines.Text(), "VmRSS: %f", &n); err == nil {
				u.rss = n / 1024
			}
			if _, err := fmt.Sscanf(lines.Text(), "RssAnon: %f", &n); err == nil {
				u.anonymous = n / 1024
			}
		}
		f.Close()
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.daemon.Process.Pid))
	if err != nil {
		return u, err
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, word := range f[11:15] { // its own and that of its children, for users and for the system
		ticks, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return u, err
		}
		u.cpu += ticks / 100
	}
	return u, nil
}

// metric reads one number of the daemon's.
func (w *world) metric(name string) (v float64, err error) {
	out, err := exec.Command("curl", "-s", "--unix-socket", filepath.Join(w.run, "bench", "api.sock"), "http://plumb/metrics").Output()
	for line := range strings.Lines(string(out)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			_, err := fmt.Sscan(rest, &v)
			return v, err
		}
	}
	return 0, fmt.Errorf("no metric %s: %w", name, err)
}
