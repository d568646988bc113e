package unit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// systemd is the machine's systemd, by the socket that it keeps for root.
type systemd struct{ conn *dbus.Conn }

func connect() (Manager, error) {
	// The connection ends with its context, so that is none of a caller's.
	conn, err := dbus.NewSystemdConnectionContext(context.Background())
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	return systemd{conn}, nil
}

// Active implements Manager.
func (s systemd) Active(ctx context.Context, name string) (bool, error) {
	p, err := s.conn.GetUnitPropertyContext(ctx, name, "ActiveState")
	if err != nil {
		return false, fmt.Errorf("ask systemd for %s: %w", name, err)
	}
	state, _ := p.Value.Value().(string)
	return slices.Contains([]string{"active", "activating", "reloading", "refreshing"}, state), nil
}

// patience is how long a service may take; systemd itself kills what doesn't stop after a minute and a half.
const patience = 100 * time.Second

// Set implements Manager.
func (s systemd) Set(ctx context.Context, name string, active bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	change := s.conn.StopUnitContext
	if active {
		change = s.conn.StartUnitContext
	}
	done := make(chan string, 1)
	if _, err := change(ctx, name, "replace", done); err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != "done" {
			return errors.New("systemd says " + result)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close implements Manager.
func (s systemd) Close() { s.conn.Close() }
