package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Source is the working tree that machines run the tests of.
type Source struct {
	Dir   string // the module's folder
	Cache string // for what is fetched and built
}

// Kernels fetches the named kernels where they aren't there yet, and opens them.
func (s Source) Kernels(ctx context.Context, names []string) ([]*Kernel, error) {
	dir := filepath.Join(s.Cache, "kernels")
	cmd := exec.CommandContext(ctx, filepath.Join(s.Dir, "internal/vmtest/get-kernels"), append([]string{dir}, names...)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("get kernels: %w", err)
	}
	var kernels []*Kernel
	for _, name := range names {
		k, err := OpenKernel(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		kernels = append(kernels, k)
	}
	return kernels, nil
}

// Package is a Go package that has tests.
type Package struct {
	Dir    string // below the module's folder, with slashes
	Binary string // its test binary
}

// Tests builds the test binaries of those packages among the patterns that have tests, each once for all machines.
func (s Source) Tests(ctx context.Context, arch string, patterns []string) ([]Package, error) {
	out, err := s.run(ctx, arch, append([]string{"list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}"}, patterns...)...)
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	var pkgs []Package
	for _, dir := range strings.Fields(string(out)) {
		rel, err := filepath.Rel(s.Dir, dir)
		if err != nil {
			return nil, fmt.Errorf("list packages: %w", err)
		}
		p := Package{Dir: filepath.ToSlash(rel)}
		p.Binary = filepath.Join(s.Cache, "vm", arch, strings.ReplaceAll(p.Dir, "/", "_")+".test")
		if _, err := s.run(ctx, arch, "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", p.Binary, "./"+p.Dir); err != nil {
			return nil, fmt.Errorf("build tests of %s: %w", p.Dir, err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs, nil
}

// Program builds a main package for the guest and returns the binary.
func (s Source) Program(ctx context.Context, arch, pkg string) (string, error) {
	binary := filepath.Join(s.Cache, "vm", arch, filepath.Base(pkg))
	if _, err := s.run(ctx, arch, "build", "-trimpath", "-ldflags=-s -w", "-o", binary, pkg); err != nil {
		return "", fmt.Errorf("build %s: %w", pkg, err)
	}
	return binary, nil
}

// run runs the go command for the guest: static binaries, because the guest has no libraries but those of its tools.
func (s Source) run(ctx context.Context, arch string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = s.Dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return out, err
}

// Root returns a root that holds the guest's init and the working tree as /src, so that tests find the files that they
// know by a relative path.
func (s Source) Root(ctx context.Context, arch string) (*Root, error) {
	init, err := s.Program(ctx, arch, "./internal/vmtest/guest")
	if err != nil {
		return nil, err
	}
	root := NewRoot()
	if err := root.Put(init, "init", nil); err != nil {
		return nil, err
	}
	err = root.Put(s.Dir, "src", func(rel string) bool {
		return rel == ".git" || rel == "bin" || filepath.Join(s.Dir, rel) == s.Cache
	})
	return root, err
}
