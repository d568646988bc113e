package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-multierror"

	"plumb.internal/plumb/internal/netns"
)

// exists reports whether the calling thread's namespace has a setting, or will have it once the device of its name is
// there: every device has those that lo has.
func exists(k string) (bool, error) {
	p, err := path(k)
	if err != nil {
		return false, err
	}
	parts := strings.Split(p, "/")
	if len(parts) == 5 && parts[0] == "net" && (parts[2] == "conf" || parts[2] == "neigh") {
		if parts[1] != "ipv4" && parts[1] != "ipv6" {
			return true, nil // nobody knows before the device is there
		}
		parts[3] = "lo"
	}
	_, err = os.Stat(filepath.Join(procSys, filepath.Join(parts...)))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// known refuses wanted settings that the calling thread's namespace can't have: to find that out when they are set would be
// in the middle of an apply.
func known(wanted []Sysctl) error {
	var errs *multierror.Error
	for _, s := range wanted {
		ok, err := exists(s.Key)
		if err == nil && !ok {
			err = fmt.Errorf("this kernel has no setting %s%s", s.Key, in(s.NetNS))
		}
		if err != nil {
			if s.From != "" {
				err = fmt.Errorf("%s: %w", s.From, err)
			}
			errs = multierror.Append(errs, err)
		}
	}
	if errs != nil && len(errs.Errors) == 1 {
		return errs.Errors[0]
	}
	return errs.ErrorOrNil()
}

// knownInNew refuses wanted settings that a new namespace won't have.
func knownInNew(wanted []Sysctl) error {
	if len(wanted) == 0 {
		return nil
	}
	var refused error
	f, err := netns.New(func() error {
		refused = known(wanted)
		return nil
	})
	if err != nil {
		return err
	}
	return errors.Join(refused, f.Close())
}
