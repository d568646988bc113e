package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"plumb.internal/plumb/internal/vmtest"
	"plumb.internal/plumb/reconciler/features"
)

// record writes the features of each kernel, and of the one that this machine runs, to testdata/features. Where another
// file there has the same name it is replaced; files that are written by hand have names of their own.
func (o options) record(ctx context.Context) error {
	tmp, err := os.MkdirTemp("", "vmtest-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	o.out = tmp
	err = o.each(ctx, "probes", func(m *vmtest.Machine, root *vmtest.Root) ([]vmtest.Step, error) {
		probe, err := o.source.Program(ctx, m.Kernel.Arch, "./internal/vmtest/cmd/probe")
		if err != nil {
			return nil, err
		}
		if err := root.Put(probe, "bin/probe", nil); err != nil {
			return nil, err
		}
		return []vmtest.Step{{Name: "probe", Argv: []string{"/bin/probe", "/out/features.json"}, Dir: "/"}}, nil
	})
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(o.kernels) {
		if err := o.install(filepath.Join(tmp, name, "features.json"), name); err != nil {
			return err
		}
	}
	return o.recordThis(ctx, filepath.Join(tmp, "this.json"))
}

// recordThis records the kernel of this machine.
func (o options) recordThis(ctx context.Context, file string) error {
	probe, err := o.source.Program(ctx, runtime.GOARCH, "./internal/vmtest/cmd/probe")
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, probe, "-private", file).CombinedOutput(); err != nil {
		return fmt.Errorf("probe this machine: %w: %s", err, out)
	}
	set, err := features.ReadFile(file)
	if err != nil {
		return err
	}
	version := strings.SplitN(set.Kernel, ".", 3)
	if len(version) < 2 {
		return fmt.Errorf("record this machine: unexpected kernel release %q", set.Kernel)
	}
	return o.install(file, version[0]+"."+version[1]+"-"+set.Arch)
}

func (o options) install(file, name string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("record %s: %w", name, err)
	}
	target := filepath.Join(o.source.Dir, "testdata", "features", name+".json")
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return fmt.Errorf("record %s: %w", name, err)
	}
	if err := os.WriteFile(target, data, 0o644); err != nil {
		return fmt.Errorf("record %s: %w", name, err)
	}
	fmt.Println("wrote", target)
	return nil
}
