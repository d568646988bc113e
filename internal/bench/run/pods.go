package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const benchPodCount = 300

// benchPods brings up routed veth pods from nothing, by the whole of `plumb apply` (compile and verify included) and by the
// iproute2 script beside this file, which makes the same namespaces, pairs, addresses, routes and neighbours.
func benchPods(rounds int) error {
	plumb, err := plumbBinary()
	if err != nil {
		return err
	}
	script, err := filepath.Abs("internal/bench/ip-batch.sh")
	if err != nil {
		return err
	}
	dir, remove, err := tempDir()
	if err != nil {
		return err
	}
	defer remove()
	if err := writePods(dir, benchPodCount); err != nil {
		return err
	}
	ctx := context.Background()
	measure := func(args ...string) (float64, error) {
		out, err := private(ctx, args[0], args[1:]...)
		if err != nil {
			return 0, err
		}
		return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	}
	var ps []pair
	for i := range rounds + 1 {
		var p pair
		if p.plumb, err = measure("apply", plumb, dir); err != nil {
			return err
		}
		if p.anchor, err = measure("script", script, strconv.Itoa(benchPodCount)); err != nil {
			return err
		}
		if i > 0 { // the first warms the caches
			ps = append(ps, p)
		}
	}
	report(fmt.Sprintf("%d veth pods from nothing / ip -batch", benchPodCount), "ms", "mark 1.5, aim 0.7", ps)
	return nil
}

// writePods writes a repository of n IPv4 veth pods, the shape of ip-batch.sh.
func writePods(dir string, n int) error {
	var b strings.Builder
	b.WriteString("package plumb\n\nnodes: bench: podCIDRs: [\"10.0.0.0/16\"]\n")
	for i := range n {
		fmt.Fprintf(&b, "pods: \"pod-%d\": {attach: \"veth\", addresses: [\"10.0.%d.%d\"], mtu: 1500}\n", i, (i+2)/256, (i+2)%256)
	}
	return os.WriteFile(filepath.Join(dir, "plumb.cue"), []byte(b.String()), 0o644)
}

// inPrivate is the side of private that is inside: what it prints is the answer.
func inPrivate(what string, args []string) error {
	for _, m := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return os.MkdirAll("/run/netns", 0o755) },
		func() error { return unix.Mount("netns", "/run/netns", "tmpfs", 0, "") },
	} {
		if err := m(); err != nil {
			return fmt.Errorf("make private folders: %w", err)
		}
	}
	run, remove, err := tempDir()
	if err != nil {
		return err
	}
	defer remove()
	bpffs := filepath.Join(run, "bpffs")
	if err := os.Mkdir(bpffs, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount a BPF file system: %w", err)
	}
	defer unix.Unmount(bpffs, unix.MNT_DETACH)
	switch what {
	case "script":
		out, err := exec.Command(args[0], args[1:]...).Output()
		if err != nil {
			return err
		}
		ns, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
		fmt.Println(ms(time.Duration(ns)))
		return err
	case "apply":
		c := exec.Command(args[0], "apply", "-C", args[1], "--yes", "--run-dir", run, "--state-dir", run, "--bpffs", bpffs)
		start := time.Now()
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		fmt.Println(ms(time.Since(start)))
		return nil
	case "plan":
		return planRounds(args, run, bpffs)
	}
	return fmt.Errorf("%q is nothing to do", what)
}
