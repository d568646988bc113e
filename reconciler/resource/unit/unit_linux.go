package unit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/go-multierror"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/prior"
)

// record is whether a service ran before the first change.
type record struct {
	Active bool `json:"active"`
}

// errNoManager says that there is no systemd.
var errNoManager = errors.New("this machine has no systemd by which plumb could start or stop it")

// Observe implements reconciler.Ops: the services that are wanted and those that have a record. With none of either nobody is
// asked. Nothing is foreign. Without systemd a service that is as it is wanted is fine, any other is an error.
func (o Ops) Observe(ctx context.Context, h *host.Host, wanted []Unit) (owned, foreign []Unit, err error) {
	names, err := prior.Names(h, prior.Units)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range wanted {
		if !slices.Contains(names, w.Name) {
			names = append(names, w.Name)
		}
	}
	if len(names) == 0 {
		return nil, nil, nil
	}
	slices.Sort(names)
	m, err := o.manager(h)
	if errors.Is(err, errNoManager) {
		return alone(h, names, wanted)
	}
	if err != nil {
		return nil, nil, err
	}
	defer m.Close()
	for _, name := range names {
		u := Unit{Name: name}
		if u.Active, err = m.Active(ctx, name); err != nil {
			return nil, nil, err
		}
		owned = append(owned, u)
	}
	return owned, nil, nil
}

// alone is Observe where nothing can be changed.
func alone(h *host.Host, names []string, wanted []Unit) (owned, foreign []Unit, err error) {
	var refused *multierror.Error
	for _, name := range names {
		u := Unit{Name: name}
		if u.Active, err = runs(h, name); err != nil {
			return nil, nil, err
		}
		owned = append(owned, u)
		for _, w := range wanted {
			if w.Name != name || w.Active == u.Active {
				continue
			}
			state, do := "runs", "stop it, and keep it from being started again"
			if w.Active {
				state, do = "doesn't run", "start it"
			}
			err := fmt.Errorf("%s %s: %w: %s", program(name), state, errNoManager, do)
			if w.From != "" {
				err = fmt.Errorf("%s: %w", w.From, err)
			}
			refused = multierror.Append(refused, err)
		}
	}
	if refused != nil && len(refused.Errors) == 1 {
		return nil, nil, refused.Errors[0]
	}
	return owned, nil, refused.ErrorOrNil()
}

// program is what a service runs.
func program(name string) string { return strings.TrimSuffix(name, ".service") }

// runs reports whether a process has the name of a service's program.
func runs(h *host.Host, name string) (bool, error) {
	files, err := filepath.Glob(filepath.Join(h.Machine, "proc/[0-9]*/comm"))
	if err != nil {
		return false, fmt.Errorf("look for processes: %w", err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		comm, err := os.ReadFile(file) // it may have ended meanwhile
		return err == nil && strings.TrimSpace(string(comm)) == program(name)
	}), nil
}

// manager connects to the service manager that started the machine.
func (o Ops) manager(h *host.Host) (Manager, error) {
	if o.Connect != nil {
		return o.Connect()
	}
	if _, err := os.Stat(filepath.Join(h.Machine, "run/systemd/system")); err != nil {
		return nil, errNoManager
	}
	return connect()
}

// Create implements reconciler.Ops.
func (o Ops) Create(ctx context.Context, h *host.Host, u Unit) error { return o.set(ctx, h, u) }

// Update implements reconciler.Ops.
func (o Ops) Update(ctx context.Context, h *host.Host, _, to Unit) error { return o.set(ctx, h, to) }

// set records whether a service ran, unless that was done, and then starts or stops it.
func (o Ops) set(ctx context.Context, h *host.Host, u Unit) error {
	m, err := o.manager(h)
	if err != nil {
		return fmt.Errorf("set %s: %w", u.ID(), err)
	}
	defer m.Close()
	now, err := m.Active(ctx, u.Name)
	if err != nil || now == u.Active {
		return err
	}
	known, err := prior.Read(h, prior.Units, u.Name, &record{})
	if err != nil {
		return err
	}
	if !known {
		if err := prior.Write(h, prior.Units, u.Name, u.ID(), record{now}); err != nil {
			return err
		}
	}
	return change(ctx, h, m, u)
}

// change starts or stops a service, and looks whether it did so: it may end by itself, or be started again.
func change(ctx context.Context, h *host.Host, m Manager, u Unit) error {
	h.Wrote("set %s %s", u.ID(), word(u.Active))
	err := m.Set(ctx, u.Name, u.Active)
	now := !u.Active
	if err == nil {
		now, err = m.Active(ctx, u.Name)
	}
	if err == nil && now != u.Active {
		err = errors.New("it is " + word(now) + " all the same")
	}
	if err != nil {
		return fmt.Errorf("set %s %s: %w", u.ID(), word(u.Active), err)
	}
	return nil
}

// Delete implements reconciler.Ops: a service runs again if it ran before.
func (o Ops) Delete(ctx context.Context, h *host.Host, u Unit) error {
	var rec record
	if known, err := prior.Read(h, prior.Units, u.Name, &rec); !known || err != nil {
		return err
	}
	m, err := o.manager(h)
	if err != nil {
		return fmt.Errorf("restore %s: %w", u.ID(), err)
	}
	defer m.Close()
	now, err := m.Active(ctx, u.Name)
	if err != nil {
		return err
	}
	if now != rec.Active {
		if err := change(ctx, h, m, Unit{Name: u.Name, Active: rec.Active}); err != nil {
			return err
		}
	}
	return prior.Drop(h, prior.Units, u.Name, u.ID())
}
