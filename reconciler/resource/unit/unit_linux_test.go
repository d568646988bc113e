package unit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource/unit"
)

// services is a service manager in memory.
type services struct {
	active map[string]bool
	stuck  bool // it says done, and does nothing
	asked  int
}

func (s *services) Active(_ context.Context, name string) (bool, error) { return s.active[name], nil }

func (s *services) Set(_ context.Context, name string, active bool) error {
	if _, ok := s.active[name]; !ok {
		return errors.New("unit not found")
	}
	if !s.stuck {
		s.active[name] = active
	}
	return nil
}

func (s *services) Close() {}

func (s *services) ops() unit.Ops {
	return unit.Ops{Connect: func() (unit.Manager, error) {
		s.asked++
		return s, nil
	}}
}

func TestKind(t *testing.T) {
	s := &services{active: map[string]bool{"a.service": true, "b.service": false}}
	kindtest.Run(t, kindtest.Kind[unit.Unit]{
		Ops:     s.ops(),
		Samples: []unit.Unit{{Name: "a.service"}, {Name: "b.service", Active: true}},
	})
	if !s.active["a.service"] || s.active["b.service"] {
		t.Errorf("left: %v", s.active)
	}
}

// What is as it is wanted isn't recorded, and with nothing to look for nobody is asked.
func TestUntouched(t *testing.T) {
	h := kindtest.Root(t)
	s := &services{active: map[string]bool{"a.service": false}}
	if _, _, err := s.ops().Observe(t.Context(), h, nil); err != nil || s.asked != 0 {
		t.Errorf("asked %d times, %v", s.asked, err)
	}
	u := unit.Unit{Name: "a.service"}
	if err := s.ops().Update(t.Context(), h, u, u); err != nil || h.Writes() != 0 {
		t.Errorf("%d writes, %v", h.Writes(), err)
	}
}

// A service that doesn't do what it is told is an error, as is one that isn't there.
func TestErrors(t *testing.T) {
	h := kindtest.Root(t)
	s := &services{active: map[string]bool{"a.service": true}, stuck: true}
	for _, c := range []struct {
		u    unit.Unit
		want string
	}{
		{unit.Unit{Name: "a.service"}, "set unit a.service stopped: it is running all the same"},
		{unit.Unit{Name: "no.service", Active: true}, "unit not found"},
	} {
		if err := s.ops().Create(t.Context(), h, c.u); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

// Without systemd a program that doesn't run is stopped already, and one that runs is refused with what to do.
func TestWithoutManager(t *testing.T) {
	h := kindtest.Root(t)
	h.Machine = t.TempDir()
	u := unit.Unit{Name: unit.IRQBalance, From: "tuning.host.irqbalance"}
	owned, _, err := (unit.Ops{}).Observe(t.Context(), h, []unit.Unit{u})
	if err != nil || len(owned) != 1 || owned[0].Active {
		t.Fatalf("observed %v, %v", owned, err)
	}
	if err := process(h, "irqbalance"); err != nil {
		t.Fatal(err)
	}
	_, _, err = (unit.Ops{}).Observe(t.Context(), h, []unit.Unit{u})
	if want := "tuning.host.irqbalance: irqbalance runs: this machine has no systemd"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	u.Active = true
	if owned, _, err = (unit.Ops{}).Observe(t.Context(), h, []unit.Unit{u}); err != nil || !owned[0].Active {
		t.Errorf("observed %v, %v", owned, err)
	}
}

// process puts a process into a made machine.
func process(h *host.Host, name string) error {
	dir := filepath.Join(h.Machine, "proc/42")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "comm"), []byte(name+"\n"), 0o644)
}
