package daemon

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/watch"
)

// suspendFile is the record of a suspension in the run folder: it outlives the daemon, and no reboot.
const suspendFile = "suspended.json"

// Suspend stops all changes until Resume, and waits for the one under way.
func (d *Daemon) Suspend(ctx context.Context, reason string) error {
	return d.ask(ctx, request{suspend: &api.Suspension{Since: time.Now().UTC(), Reason: reason}})
}

// Resume goes on, and waits for the first cycle.
func (d *Daemon) Resume(ctx context.Context) error { return d.ask(ctx, request{resume: true}) }

// suspend begins a suspension, or with nil ends it.
func (d *Daemon) suspend(s *api.Suspension) error {
	path := d.Host.Path(suspendFile)
	if s == nil {
		d.Host.Wrote("remove %s", path)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("resume: %w", err)
		}
		d.touched = true
		d.Log.Info("resumed")
	} else {
		b, err := json.Marshal(s)
		if err != nil {
			return err
		}
		d.Host.Wrote("write %s", path)
		if err := d.Host.WriteFile(path, b); err != nil {
			return fmt.Errorf("suspend: %w", err)
		}
		d.Log.Warn("suspended: nothing is changed until plumb resume", "reason", s.Reason)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.suspended = s
	return nil
}

// recallSuspension reads the record of one from before the daemon's start.
func (d *Daemon) recallSuspension() error {
	b, err := os.ReadFile(d.Host.Path(suspendFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s := &api.Suspension{}
	if err == nil {
		err = json.Unmarshal(b, s)
	}
	if err != nil {
		return fmt.Errorf("read whether plumb is suspended: %w (plumb resume removes the record)", err)
	}
	d.suspended = s
	return nil
}

func (d *Daemon) isSuspended() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.suspended != nil
}

// heldFile says which files are left alone, by their sum: a rollback holds across restarts and reboots, until somebody
// edits the files.
const heldFile = "held"

func (d *Daemon) heldPath() string { return filepath.Join(d.StateDir, d.Node, heldFile) }

// hold leaves the files alone as they were read, or are now.
func (d *Daemon) hold() {
	d.held = true
	var err error
	if d.read == nil {
		var sum watch.Sum
		if sum, err = d.files.Sum(); err == nil {
			d.read = &sum
		}
	}
	if err == nil {
		d.Host.Wrote("write %s", d.heldPath())
		err = d.Host.WriteFile(d.heldPath(), []byte(hex.EncodeToString(d.read[:])))
	}
	if err != nil {
		d.Log.Error("can't keep which files to leave alone", "err", err)
	}
}

// recallHeld reports whether files of this sum are to be left alone.
func (d *Daemon) recallHeld(sum watch.Sum) bool {
	b, err := os.ReadFile(d.heldPath())
	return err == nil && string(b) == hex.EncodeToString(sum[:])
}

func (d *Daemon) forgetHeld() {
	if !d.held {
		return
	}
	d.held = false
	d.Host.Wrote("remove %s", d.heldPath())
	if err := os.Remove(d.heldPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.Log.Error("can't forget which files were left alone", "err", err)
	}
}
