package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// child is this program in namespaces of its own.
type child struct {
	figures
	cgroup, dir string // of the node; of files
	services    int
	run, bpffs  string
}

// inPrivate is the side of private that is inside: it prints its figures.
func inPrivate(what string, args []string) error {
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	c := &child{figures: figures{}, cgroup: args[0], dir: args[1], services: n}
	if c.run, err = os.MkdirTemp("", "plumb-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(c.run)
	c.bpffs = filepath.Join(c.run, "bpffs")
	for _, m := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return os.MkdirAll("/run/netns", 0o755) },
		func() error { return unix.Mount("netns", "/run/netns", "tmpfs", 0, "") },
		func() error { return os.Mkdir(c.bpffs, 0o755) },
		func() error { return unix.Mount("bpf", c.bpffs, "bpf", 0, "") },
	} {
		if err := m(); err != nil {
			return fmt.Errorf("make private folders: %w", err)
		}
	}
	defer unix.Unmount(c.bpffs, unix.MNT_DETACH)
	switch what {
	case "apply":
		err = c.apply(args[3])
	case "nft":
		err = c.nft()
	case "changes":
		err = c.changes(args[3])
	default:
		err = fmt.Errorf("%q is nothing to do", what)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(c.figures)
}

// command measures one run of a program.
func (c *child) command(name string, args ...string) (out []byte, u *syscall.Rusage, err error) {
	var buf, stderr bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &buf, &stderr
	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w\n%.2000s%.2000s", args[0], err, buf.Bytes(), stderr.Bytes())
	}
	u = cmd.ProcessState.SysUsage().(*syscall.Rusage)
	c.add(name+", ms", ms(took))
	c.add(name+byProcessor, float64(u.Utime.Nano()+u.Stime.Nano())/1e6)
	return buf.Bytes(), u, nil
}

// apply runs `plumb apply` from nothing, asks the last service, and then changes one backend in the files.
func (c *child) apply(plumb string) error {
	args := []string{plumb, "apply", "-C", c.dir, "--yes", "--run-dir", c.run, "--state-dir", c.run, "--bpffs", c.bpffs,
		"--cgroup", c.cgroup, "--output", "json"}
	_, u, err := c.command("a plumb apply from nothing", args...)
	if err != nil {
		return err
	}
	c.add("b   its peak memory (the larger of it and its evaluator), MB", float64(u.Maxrss)/1024)
	start := time.Now()
	if err := ask(c.services - 1); err != nil {
		return fmt.Errorf("ask the last service: %w", err)
	}
	c.add("c   the last service's answer after that, ms", ms(time.Since(start)))
	if err := c.mapBytes(); err != nil {
		return err
	}
	if err := writeRepository(c.dir, c.services, c.services/2); err != nil {
		return err
	}
	out, _, err := c.command("e plumb apply after one backend changed in the files", args...)
	if err != nil {
		return err
	}
	var a struct{ Writes int }
	if err := json.Unmarshal(out, &a); err != nil {
		return err
	}
	c.add("f   its writes", float64(a.Writes))
	return writeRepository(c.dir, c.services, -1)
}

// nft loads one map, and changes one element.
func (c *child) nft() error {
	rules, element := filepath.Join(c.run, "rules"), filepath.Join(c.run, "element")
	if err := writeRuleset(rules, c.services); err != nil {
		return err
	}
	if _, _, err := c.command("h nft -f, one map", "nft", "-f", rules); err != nil {
		return err
	}
	for i := range 4 {
		if err := writeElement(element, c.services/2, i%2, (i+1)%2); err != nil {
			return err
		}
		if _, _, err := c.command("r nft -f, one element changed", "nft", "-f", element); err != nil {
			return err
		}
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// processor is the processor time that this process has taken.
func processor() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // can't be
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
