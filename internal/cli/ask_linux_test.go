package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
)

// person sits at a terminal, and does something before answering.
type person struct {
	*testing.T
	terminal *os.File
	meantime func()
}

// Write is the question.
func (p person) Write(b []byte) (int, error) {
	p.meantime()
	if _, err := p.terminal.WriteString("y\n"); err != nil {
		p.Error(err)
	}
	return len(b), nil
}

// openTerminal opens both ends of a terminal.
func openTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// TestAsk: while somebody is asked the node isn't locked, and what was shown is carried out only if it is still so.
func TestAsk(t *testing.T) {
	h := kindtest.Root(t)
	master, slave := openTerminal(t)
	free := false
	o := &Options{In: slave, Err: person{t, master, func() {
		unlock, err := reconciler.Lock(h)
		if err != nil {
			t.Errorf("while somebody is asked: %v", err)
			return
		}
		free = true
		unlock()
	}}}
	s := &session{o: o, node: kindtest.Node, host: h}
	if err := s.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() { s.unlock() }()
	plan := func(name string) *resource.Plan {
		return &resource.Plan{Changes: []resource.Change{{ID: resource.ID{Kind: "route", Name: name}, Action: resource.Delete}}}
	}
	for name, refused := range map[string]bool{"10.0.0.10/32": false, "10.0.0.11/32": true} {
		free = false
		err := s.mayGoOn(t.Context(), ApplyOptions{}, false, plan("10.0.0.10/32"),
			func(context.Context) (*resource.Plan, *reconciler.Observed, error) { return plan(name), nil, nil }, "Well?")
		var exit *Exit
		if !free || (err != nil) != refused || refused && (!errors.As(err, &exit) || exit.Code != ExitRefused) {
			t.Errorf("%s: free %v, %v", name, free, err)
		}
		if _, err := reconciler.Lock(h); err == nil {
			t.Errorf("%s: it isn't locked afterwards", name)
		}
	}
}
