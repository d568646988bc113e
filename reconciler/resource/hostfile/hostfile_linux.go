package hostfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/internal/prior"
)

// record is what was there before the first change of a file.
type record struct {
	Prior string `json:"prior"`
	// Ours are all values that were set since: the last of them may not have been reached.
	Ours []string `json:"ours"`
	// Index is that of the device whose file it is: another one that has the name now was never changed.
	Index string `json:"index,omitempty"`
}

// Observe implements reconciler.Ops. It reads the files that are wanted and those that have a record, nothing else. A
// wanted file counts as ours whether we changed it or not: it exists anyway, and what matters is its value. Nothing is
// foreign. A wanted file that the machine hasn't got is an error; so nothing is written before that is known.
func (Ops) Observe(_ context.Context, h *host.Host, wanted []File) (owned, foreign []File, err error) {
	paths, err := prior.Names(h, prior.Files)
	if err != nil {
		return nil, nil, err
	}
	from := make(map[string]string, len(wanted))
	for _, w := range wanted {
		from[w.Path] = w.From
		if !slices.Contains(paths, w.Path) {
			paths = append(paths, w.Path)
		}
	}
	if len(paths) == 0 {
		return nil, nil, nil
	}
	slices.Sort(paths)
	var missing *multierror.Error
	err = visit(h, func(at *machine) error {
		for _, p := range paths {
			f := File{Path: p}
			f.Value, err = at.read(p)
			origin, isWanted := from[p]
			switch {
			case err == nil:
			case isWanted:
				err = fmt.Errorf("not available here: %w", err)
				if origin != "" {
					err = fmt.Errorf("%s: %w", origin, err)
				}
				missing = multierror.Append(missing, err)
				continue
			case !absent(err):
				return err
			default:
				f.gone = true // with its device: only the record is left
			}
			owned = append(owned, f)
		}
		return nil
	})
	if missing != nil && len(missing.Errors) == 1 {
		return nil, nil, errors.Join(missing.Errors[0], err)
	}
	if err = errors.Join(missing.ErrorOrNil(), err); err != nil {
		return nil, nil, err
	}
	return owned, nil, nil
}

// Create implements reconciler.Ops.
func (Ops) Create(_ context.Context, h *host.Host, f File) error { return set(h, f) }

// Update implements reconciler.Ops.
func (Ops) Update(_ context.Context, h *host.Host, _, to File) error { return set(h, to) }

// set records the prior value, unless that was done, and then changes the value.
func set(h *host.Host, f File) error {
	ours := fold(f)
	var rec record
	known, err := prior.Read(h, prior.Files, f.Path, &rec)
	if err != nil {
		return err
	}
	return visit(h, func(at *machine) error {
		now, err := at.read(f.Path)
		if err != nil || now == ours {
			return err
		}
		index, err := at.index(f.Path)
		if err != nil {
			return err
		}
		if !known || rec.Index != index {
			rec = record{Prior: now, Index: index}
		}
		if !slices.Contains(rec.Ours, ours) {
			rec.Ours = append(rec.Ours, ours)
			if err := prior.Write(h, prior.Files, f.Path, f.ID(), rec); err != nil {
				return err
			}
		}
		h.Wrote("set %s to %s", f.ID(), ours)
		if err = at.write(f.Path, ours); err != nil {
			// What the kernel made of it instead nobody asked for. Should this fail too, there is the record.
			_ = at.write(f.Path, now)
		}
		return err
	})
}

// Delete implements reconciler.Ops: the value from before the first change comes back, if the present one is still ours.
func (Ops) Delete(_ context.Context, h *host.Host, f File) error {
	var rec record
	if known, err := prior.Read(h, prior.Files, f.Path, &rec); !known || err != nil {
		return err
	}
	err := visit(h, func(at *machine) error {
		index, err := at.index(f.Path)
		if err != nil || index != rec.Index {
			return err
		}
		now, err := at.read(f.Path)
		switch {
		case err != nil || now == rec.Prior:
			return err
		case !slices.Contains(rec.Ours, now):
			h.Warn("%s is %q now, which plumb didn't set: it stays (it was %q before plumb)", f.Path, now, rec.Prior)
			return nil
		}
		h.Wrote("restore %s to %s", f.ID(), rec.Prior)
		return at.write(f.Path, rec.Prior)
	})
	if err != nil && !absent(err) { // gone with its device
		return fmt.Errorf("restore %s: %w", f.Path, err)
	}
	return prior.Drop(h, prior.Files, f.Path, f.ID())
}

// machine is where the files are.
type machine struct {
	h     *host.Host
	sysfs string // of the root namespace; "" as long as nobody asked
	done  func()
}

// visit runs fn in the root namespace, whose devices are those that files are named after.
func visit(h *host.Host, fn func(*machine) error) error {
	ns, err := h.NS("")
	if err != nil {
		return err
	}
	return ns.Do(func() error {
		m := &machine{h: h}
		defer func() {
			if m.done != nil {
				m.done()
			}
		}()
		return fn(m)
	})
}

// find is where a file really is.
func (m *machine) find(file string) (where string, s shape, err error) {
	if s, err = shapeOf(file); err != nil {
		return "", s, err
	}
	if !strings.HasPrefix(file, devices+"/") {
		return filepath.Join(m.h.Machine, file), s, nil
	}
	if m.sysfs == "" {
		if m.sysfs, m.done, err = netns.Sysfs(); err != nil {
			return "", s, err
		}
	}
	return filepath.Join(m.sysfs, strings.TrimPrefix(file, "/sys")), s, nil
}

// index is that of the device whose file it is, "" for another file.
func (m *machine) index(file string) (string, error) {
	where, _, err := m.find(file)
	if err != nil || !strings.HasPrefix(file, devices+"/") {
		return "", err
	}
	data, err := os.ReadFile(filepath.Join(filepath.Dir(where), "../../ifindex"))
	if err != nil {
		return "", fmt.Errorf("read the number of the device of %s: %w", file, plain(err))
	}
	return strings.TrimSpace(string(data)), nil
}

func (m *machine) read(file string) (string, error) {
	where, s, err := m.find(file)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(where)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", file, plain(err))
	}
	value, err := s.read(string(data))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	return value, nil
}

// write sets a value and reads it back, since the kernel leaves out processors that it has set apart, and ignores some
// values altogether.
func (m *machine) write(file, value string) error {
	where, s, err := m.find(file)
	if err != nil {
		return err
	}
	text, err := s.write(value)
	if err != nil {
		return fmt.Errorf("set %s: %w", file, err)
	}
	f, err := os.OpenFile(where, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("set %s: %w", file, plain(err))
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Close())
	switch {
	case errors.Is(err, unix.EIO) && strings.HasPrefix(file, "/proc/irq/"):
		return fmt.Errorf("set %s to %q: the driver keeps this interrupt where it is: %w", file, value, plain(err))
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("set %s to %q: the kernel doesn't take this value: %w", file, value, plain(err))
	case err != nil:
		return fmt.Errorf("set %s to %q: %w", file, value, plain(err))
	}
	now, err := m.read(file)
	if err == nil && now != value {
		err = fmt.Errorf("set %s to %q: the kernel made %q of it", file, value, now)
	}
	return err
}

// plain leaves out where the file really is, which tells a person nothing.
func plain(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// absent reports whether a file isn't there. What a driver lets go of meanwhile can't be read any more either.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }
