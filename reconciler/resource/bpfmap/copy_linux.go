package bpfmap

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
)

// copyTo copies the entries of pinned map o into map to, which is or becomes m. With spare, entries that are there already
// are left alone.
func copyTo(h *host.Host, to *ebpf.Map, m, o Map, spare bool) error {
	load := open
	if o.Version != m.Version {
		load = func(h *host.Host, o Map) (*ebpf.Map, error) { return ebpf.LoadPinnedMap(path(h, o), nil) }
	}
	from, err := load(h, o)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil // not what its name says: nothing in it can be believed
	}
	defer from.Close()
	what := fmt.Sprintf("copy entries of %s to %s", o.ID(), m.ID())
	wrote := func() { h.Wrote("%s", what) }
	if o.Version == m.Version {
		err = bpf.Copy(to, from, spare, wrote)
	} else {
		err = bpf.Convert(to, m.Base, from, spare, wrote)
	}
	switch {
	case errors.Is(err, bpf.ErrForeign):
		return nil // Observe has said so
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("the %d entries of the new map don't hold what is in %s: set a larger tuning.maps, "+
			"or apply first what needs less: %w", m.Entries, o.ID(), err)
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
