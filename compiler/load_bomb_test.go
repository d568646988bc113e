package compiler

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestBombs loads repositories that are made to use all time, memory or stack. Each must end in a clear error within ten seconds
// and 400 MB, and leave this process and the next evaluation as they were. It has no parallel tests beside it, so that what ended
// children used is the bomb's.
func TestBombs(t *testing.T) {
	cases := []struct{ name, text, want string }{
		{"disjunctions", "_x: " + strings.Repeat("({a: 1} | {b: 2} | {c: 3}) & ", 24) + "{...}\npods: web: mtu: _x.d\n", ""},
		{"nested-for", "_x: [for a in _y for b in _y for c in _y for d in _y for e in _y for f in _y {a + b + c + d + e + f}]\n_y: [" + strings.Repeat("1, ", 40) + "1]\npods: web: mtu: len(_x)\n", ""},
		{"range", "import \"list\"\n\npods: web: mtu: len(list.Range(0, 1000000000, 1))\n", ""},
		{"concat", "import \"list\"\n\n_a0: [1, 2, 3, 4, 5, 6, 7, 8]\n" + doubling(40, "_a%d: list.Concat([_a%d, _a%d])\n") + "pods: web: mtu: len(_a40)\n", ""},
		{"string", "_a0: \"abcdefgh\"\n" + doubling(40, "_a%d: _a%d + _a%d\n") + "pods: web: attach: _a40\n", ""},
		{"laughs", "_a0: [1, 2]\n" + doubling(30, "_a%d: [_a%d, _a%d]\n") + "pods: web: labels: _a30\n", ""},
		{"laughs-struct", "_a0: {x: 1, y: 2}\n" + doubling(30, "_a%d: {x: _a%d, y: _a%d}\n") + "pods: web: labels: _a30\n", ""},
		{"labels", strings.Repeat("a: ", 1_000_000) + "1\n", ""},
		{"sum", "pods: web: mtu: 1" + strings.Repeat("+1", 1_000_000) + "\n", ""},
		{"brackets", "pods: " + strings.Repeat("[", 1_000_000) + "\n", "nesting depth"},
		{"parentheses", "pods: web: mtu: " + strings.Repeat("(", 1_000_000) + "1" + strings.Repeat(")", 1_000_000) + "\n", "nesting depth"},
		{"number", "pods: web: mtu: 1e999999999\n", ""},
		{"multiply", "pods: web: attach: 1000000000 * \"abcdefgh\"\n", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := write(t, map[string]string{"x.cue": "package plumb\n\n" + c.text})
			endsClearly(t, dir, c.want)
		})
	}
	t.Run("fifo", func(t *testing.T) {
		dir := write(t, map[string]string{"a.cue": "package plumb\n"})
		if err := syscall.Mkfifo(filepath.Join(dir, "x.cue"), 0o644); err != nil {
			t.Fatal(err)
		}
		endsClearly(t, dir, "x.cue: is a named pipe")
	})
	t.Run("device", func(t *testing.T) {
		dir := write(t, map[string]string{"a.cue": "package plumb\n"})
		if err := os.Symlink("/dev/zero", filepath.Join(dir, "x.cue")); err != nil {
			t.Fatal(err)
		}
		endsClearly(t, dir, "x.cue: is a device")
	})
	t.Run("imported-fifo", func(t *testing.T) {
		dir := write(t, map[string]string{"a.cue": "package plumb\n\nimport \"plumb.local/x\"\n\npods: web: x.a\n", "x/a.cue": "package x\n\na: {}\n"})
		if err := syscall.Mkfifo(filepath.Join(dir, "x/b.cue"), 0o644); err != nil {
			t.Fatal(err)
		}
		endsClearly(t, dir, "x/b.cue: is a named pipe")
	})
}

func doubling(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i+1, i, i)
	}
	return b.String()
}

func endsClearly(t *testing.T, dir, want string) {
	t.Helper()
	start := time.Now()
	var before, after syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &before); err != nil {
		t.Fatal(err)
	}
	load := machineLoad(t)
	s, err := Load(t.Context(), dir, nil)
	took := time.Since(start)
	load = max(load, machineLoad(t))
	if err == nil {
		s.Close()
		t.Fatal("no error")
	}
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &after); err != nil {
		t.Fatal(err)
	}
	self := peakKB(t)
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	t.Logf("%v, %v of processor time, %d MB in the largest child so far, %d MB here: %.200s",
		took.Round(time.Millisecond), cpu.Round(time.Millisecond), after.Maxrss>>10, self>>10, err)
	// Ten seconds are what a bomb may take of a processor, however many others want it. On a quiet machine they are what it takes by
	// the clock too: Load gives up after nine. On a busy one, starting the child and ending it wait for a processor in proportion.
	if limit := time.Duration(load * float64(10*time.Second)); cpu > 10*time.Second || took > limit {
		t.Errorf("took %v of processor time, and %v by the clock of at most %v", cpu, took, limit)
	}
	if mb := (int64(after.Maxrss) + int64(self)) >> 10; mb > 400 {
		t.Errorf("child and parent used %d MB", mb)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("got %q, want it to hold %q", err, want)
	}
	if strings.Contains(err.Error(), "goroutine") || strings.Contains(err.Error(), "broke down") || strings.Contains(err.Error(), "evaluator ended") {
		t.Errorf("the error isn't clear: %.300s", err)
	}
	// The next evaluation works.
	s, err = Load(t.Context(), write(t, map[string]string{"a.cue": "package plumb\n\npods: web: mtu: 1500\n"}), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// machineLoad is how many threads want each processor, at least one: the larger of now and the last minute.
func machineLoad(t *testing.T) float64 {
	t.Helper()
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	var minute, five, fifteen, now float64
	if _, err := fmt.Sscanf(string(b), "%f %f %f %f/", &minute, &five, &fifteen, &now); err != nil {
		t.Fatal(err)
	}
	return max(1, max(minute, now)/float64(runtime.NumCPU()))
}

// peakKB is the most memory that this process had.
func peakKB(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kb int
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
			return kb
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// The limit of time can be raised, not lowered, and only by a time.
func TestEvaluationTime(t *testing.T) {
	dir := write(t, map[string]string{"x.cue": "package plumb\n\nnodes: a: {}\n"})
	for value, want := range map[string]string{"": "", "9s": "", "2m": "", "1s": "is not a time from 9s on", "60": "is not a time from 9s on"} {
		t.Setenv(timeEnv, value)
		src, err := Load(t.Context(), dir, nil)
		src.Close()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s=%q: %v, want %q", timeEnv, value, err, want)
		}
	}
}
