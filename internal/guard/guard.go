// Package guard takes an apply back unless somebody confirms it, also when that apply, the guardian itself or the way to the
// operator is gone.
//
//	guard.go     what is written down of an apply that may be taken back, and its phases
//	process.go   processes by number and start, and the clock that nobody can set
//	start.go     the side of the apply: starting the guardian, and waiting for the outcome
//	guardian.go  the guardian, a process of its own
//	watch.go     what the guardian looks at while it waits
//	lifeline.go  the ways to the operator
//	session.go   the SSH session of whoever applies
//	resolve.go   ends: confirming, taking back, what the next run finds
//	reverted.go  a note of what was taken back, for who would put it in force again
//
// All of it is in the folder "confirm" of the node's run folder, which is on a file system that a reboot empties:
//
//	pending.json  how to go on, written once
//	before.json   the state to come back to (reconciler.Record), written once
//	ballast      room for what going back has to write, should the file system be full by then
//	applying, waiting, confirmed, reverting
//	              one of these, which is the phase; it is renamed from one to the next, so that of two who want to go on in
//	              different ways one comes too late
//
// The guardian runs before the first change and holds the way back in its memory. It is the only one that leaves phase
// applying, and "plumb confirm" the only one that enters phase confirmed. It takes the apply back when time runs out, when
// the apply ends before everything is verified, when a check fails that held, or when the operator's session or a default
// gateway that answered doesn't any more; while changes are being made those may be cut for a moment, see momentary. If the
// guardian dies, the apply takes itself back; if both do, the next run does that first. One that is stopped, or stuck, counts
// as dead some time after its deadline, and is killed. To take back is reconciler.Back in each case.
package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/history"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Pending is an apply that may be taken back.
type Pending struct {
	BootID string        `json:"boot_id"`
	Within time.Duration `json:"within"` // to confirm
	Apply  Process       `json:"apply"`
	// Kept is what the apply left although nothing wants it any more.
	Kept []resource.ID `json:"kept"`
	// Revision goes into the history once it is confirmed; nil for none.
	Revision *history.Revision `json:"revision"`
	StateDir string            `json:"state_dir"`
	// Checks must hold, and Lifelines be there, for as long as the apply waits.
	Checks    []compiler.Check `json:"checks"`
	Lifelines []Lifeline       `json:"lifelines"`
	// Where the guardian finds the host. It gets the root namespace open.
	Host host.Options `json:"host"`
}

// Phase is how far an apply that may be taken back is.
type Phase string

// The phases, which are names of files.
const (
	Applying  Phase = "applying"
	Waiting   Phase = "waiting"   // for a confirmation
	Confirmed Phase = "confirmed" // what was kept for the way back is being removed
	Reverting Phase = "reverting"
)

var phases = []Phase{Applying, Waiting, Confirmed, Reverting}

// State is a phase with what changes meanwhile.
type State struct {
	Phase    Phase         `json:"-"`
	Guardian Process       `json:"guardian"`
	Deadline time.Duration `json:"deadline"`      // since boot
	Why      string        `json:"why,omitempty"` // it is taken back
}

// overdue is how long after its deadline a guardian has to be heard of.
var overdue = 30 * time.Second

// toRevert is how long a guardian may take to go back; then the apply goes on with it.
var toRevert = 5 * time.Minute

// guarded reports whether a guardian sees to it that the phase ends.
func (s *State) guarded() bool { return s.Guardian.Alive() && boottime() < s.Deadline+overdue }

// Names in the run folder.
const (
	folder      = "confirm"
	pendingFile = "pending.json"
	beforeFile  = "before.json"
	ballastFile = "ballast"
)

// ballast is the size of that file in bytes: some 250 records of namespaces and settings.
const ballast = 1 << 20

func path(h *host.Host, name string) string { return h.Path(folder, name) }

// write puts a value into a file of the folder.
func write(h *host.Host, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return writeBytes(h, name, data)
}

func writeBytes(h *host.Host, name string, data []byte) error {
	h.Wrote("write %s", path(h, name))
	if err := h.WriteFile(path(h, name), data); err != nil {
		return fmt.Errorf("write the way back: %w", err)
	}
	return nil
}

// Look finds the apply that may be taken back; both are nil where there is none. Of an earlier boot there is none: what it
// changed went with that kernel.
func Look(h *host.Host) (*Pending, *State, error) {
	s, err := look(h)
	if s == nil || err != nil {
		return nil, nil, err
	}
	p := &Pending{}
	data, err := os.ReadFile(path(h, pendingFile))
	if err == nil {
		err = json.Unmarshal(data, p)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil // it is over, but for the rest of the folder
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path(h, pendingFile), err)
	}
	boot, err := bootID()
	if err != nil || boot != p.BootID {
		return nil, nil, err
	}
	return p, s, nil
}

// look finds the phase, nil for none.
func look(h *host.Host) (*State, error) {
	for range 5 { // it may move on between two looks
		for _, phase := range phases {
			data, err := os.ReadFile(path(h, string(phase)))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			s := &State{Phase: phase}
			if err == nil {
				err = json.Unmarshal(data, s)
			}
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", path(h, string(phase)), err)
			}
			return s, nil
		}
	}
	return nil, nil
}

// errLate says that somebody else has gone on to another phase.
var errLate = errors.New("it went on meanwhile")

// move goes from one phase to another, with what is to be known then; the error is errLate where the phase is another one.
func move(h *host.Host, from, to Phase, s State) error {
	// What is to be known goes into a file of its own first: written to the old name, it could come after somebody has
	// renamed that. It matters less than the phase does: on a full file system what was known before has to do.
	next := "." + string(to)
	known := write(h, next, s) == nil
	h.Wrote("go from phase %s to %s", from, to)
	if err := os.Rename(path(h, string(from)), path(h, string(to))); err != nil {
		_ = os.Remove(path(h, next))
		if errors.Is(err, fs.ErrNotExist) {
			return errLate
		}
		return fmt.Errorf("go from phase %s to %s: %w", from, to, err)
	}
	if !known {
		return nil
	}
	h.Wrote("write %s", path(h, string(to)))
	if err := os.Rename(path(h, next), path(h, string(to))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write phase %s: %w", to, err)
	}
	return nil
}

// remove takes the folder away. Without pending.json there is nothing to take back, so that goes first, and the phase last.
func remove(h *host.Host) error {
	names := []string{pendingFile, beforeFile, ballastFile}
	files, err := os.ReadDir(h.Path(folder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", h.Path(folder), err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") {
			names = append(names, f.Name())
		}
	}
	for _, phase := range phases {
		names = append(names, string(phase))
	}
	for _, name := range names {
		h.Wrote("remove %s", path(h, name))
		if err := os.Remove(path(h, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the way back: %w", err)
		}
	}
	h.Wrote("remove %s", h.Path(folder))
	if err := os.Remove(h.Path(folder)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the way back: %w", err)
	}
	return nil
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
