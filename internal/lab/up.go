package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Up brings up a lab with these nodes, whose PID is filled in. A lab that is up already stays as it is; what is left of
// one that broke is removed first. It applies nothing.
func Up(ctx context.Context, name, dir string, nodes []Node) (*Lab, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find folder: %w", err)
	}
	if strings.HasPrefix(dir, "/run/") {
		return nil, fmt.Errorf("the repository is in %s, and a lab has a /run of its own: put it elsewhere", dir)
	}
	unlock, err := lock(name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	old, err := Open(name)
	switch {
	case err == nil && old.Dir != dir:
		return nil, fmt.Errorf("lab %s runs already, for %s", name, old.Dir)
	case err == nil:
		return old, nil
	case !errors.Is(err, ErrNotUp):
		return nil, err
	}
	cg, err := cgroupOf(name)
	if err != nil {
		return nil, err
	}
	if err := cg.remove(); err != nil {
		return nil, err
	}
	l := &Lab{Name: name, Dir: dir, Nodes: nodes}
	if err := l.build(ctx, cg); err != nil {
		return nil, errors.Join(err, cg.remove(), removeFolder(name))
	}
	return l, nil
}

func (l *Lab) build(ctx context.Context, cg cgroup) error {
	var err error
	if l.Underlay, err = start(ctx, cg, "", argUnderlay, l.Name); err != nil {
		return fmt.Errorf("start underlay: %w", err)
	}
	for i := range l.Nodes {
		n := &l.Nodes[i]
		if n.PID, err = start(ctx, cg, n.Name, argNode, n.Name); err != nil {
			return fmt.Errorf("start node %s: %w", n.Name, err)
		}
	}
	if err := l.wire(); err != nil {
		return err
	}
	return l.save()
}

// Down removes the lab of this name: its processes with their namespaces, its cgroup, its folder. It reports whether
// there was anything.
func Down(name string) (found bool, err error) {
	cg, err := cgroupOf(name)
	if err != nil {
		return false, err
	}
	_, errDir := os.Stat(filepath.Join(Root, name))
	_, errCg := os.Stat(string(cg))
	if errors.Is(errDir, fs.ErrNotExist) && errors.Is(errCg, fs.ErrNotExist) {
		return false, nil
	}
	unlock, err := lock(name)
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := cg.remove(); err != nil {
		return true, err
	}
	return true, removeFolder(name)
}

func removeFolder(name string) error {
	if err := os.RemoveAll(filepath.Join(Root, name)); err != nil {
		return fmt.Errorf("remove folder of lab %s: %w", name, err)
	}
	// Stays where other labs are up.
	_ = os.Remove(Root)
	return nil
}
