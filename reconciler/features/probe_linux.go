package features

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// probe finds the answer for one feature by trying it.
type probe struct {
	feature Feature
	since   string // the first upstream version, for people
	what    string // what is tried, so that "what: works" and "what: error" both read well
	try     func(*sandbox) error
}

// themes are the probes that make something in a network namespace. Those of a theme share one, and come one after the other:
// taking a namespace down is most of the work, and long after it is gone the kernel holds the lock of all network settings
// for that. The themes that wait longest for the kernel come first.
func themes() [][]probe {
	return [][]probe{classifierProbes, xdpProbes, qdiscProbes, linkProbes, slices.Concat(markProbes, baseProbes, tcpProbes, nftProbes), mountProbes}
}

// bare are the probes that need no namespace.
func bare() []probe { return slices.Concat(bpfProbes, hookProbes) }

// probes is the table of everything that can be asked. A recorded feature file holds an answer for each of them.
func probes() []probe { return slices.Concat(slices.Concat(themes()...), bare()) }

// Names returns every feature that [Probe] answers.
func Names() []Feature {
	var names []Feature
	for _, p := range probes() {
		names = append(names, p.feature)
	}
	return names
}

// errAbsent is the answer no where the kernel reports success and yet doesn't do it.
var errAbsent = errors.New("accepted, and silently not done")

// errOff is the answer no for what the kernel has and the administrator switched off.
var errOff = errors.New("switched off")

// errUntried wraps the errors of preparations: the feature itself was not reached.
var errUntried = errors.New("could not be tried")

// untried marks err as something that kept a probe from reaching its feature.
func untried(what string, err error) error {
	return fmt.Errorf("%w: %s: %w", errUntried, what, err)
}

// refusals are the kernel's ways to say that it doesn't have what was asked. Any other error, lack of privilege and of
// memory first of all, says nothing about the feature.
var refusals = []error{
	errAbsent, errOff, ebpf.ErrNotSupported, errors.ErrUnsupported, unix.EOPNOTSUPP, unix.ENOTSUP, unix.ENOSYS, unix.EINVAL, unix.ENOENT, unix.ENODEV,
	unix.ENOPROTOOPT, unix.EPROTONOSUPPORT, unix.EPFNOSUPPORT, unix.EAFNOSUPPORT, unix.ESOCKTNOSUPPORT, unix.E2BIG,
	unix.ERANGE, unix.EBADF,
}

// answer turns what a probe ended with into one of the three answers.
func (p probe) answer(err error) Status {
	st := Status{Since: p.since}
	yes, no := true, false
	if err == nil {
		st.Supported, st.Reason = &yes, p.what+": works"
		return st
	}
	st.Reason = fmt.Sprintf("%s: %v", p.what, err)
	if errors.Is(err, errUntried) {
		return st
	}
	for _, r := range refusals {
		if errors.Is(err, r) {
			st.Supported = &no
			return st
		}
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		if os.Geteuid() != 0 {
			st.Reason += " (needs root)"
		} else {
			st.Reason += " (not permitted even to root: by a container, a security module or lockdown)"
		}
	}
	return st
}

// Probe asks the running kernel by trying each feature, in network namespaces that are thrown away, and adds the facts of
// the host as seen from the network namespace of the caller. It leaves nothing behind but modules that the kernel loaded
// itself. An error means that not even the kernel's name could be read, or that ctx ended; a probe that could not run is
// an answer, not an error.
func Probe(ctx context.Context) (*Set, error) {
	set, err := newSet()
	if err != nil {
		return nil, err
	}
	restore, err := liftMemlock()
	if err != nil {
		return nil, err
	}
	defer restore()
	var mu sync.Mutex
	var g errgroup.Group
	answer := func(p probe, err error) {
		mu.Lock()
		defer mu.Unlock()
		set.Features[p.feature] = p.answer(err)
	}
	for _, theme := range themes() {
		g.Go(func() error {
			left := theme
			err := inSandbox(func(s *sandbox) error {
				for ; len(left) > 0 && ctx.Err() == nil; left = left[1:] {
					answer(left[0], left[0].try(s))
				}
				return ctx.Err()
			})
			for _, p := range left {
				answer(p, err)
			}
			return ctx.Err()
		})
	}
	for _, p := range bare() {
		if ctx.Err() == nil {
			answer(p, p.try(nil))
		}
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("probe features: %w", err)
	}
	return set, set.addHost()
}

func newSet() (*Set, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("read kernel release: %w", err)
	}
	return &Set{
		FormatVersion: FormatVersion,
		Kernel:        unix.ByteSliceToString(u.Release[:]),
		Arch:          runtime.GOARCH,
		Features:      map[Feature]Status{},
	}, nil
}

// addHost reads the facts of the host, and corrects what they say where the features know better.
func (s *Set) addHost() error {
	facts, err := hostFacts()
	if err != nil {
		return fmt.Errorf("read host facts: %w", err)
	}
	if st := s.Features[XDPGeneric]; st.Supported != nil && !*st.Supported {
		for name, d := range facts.Devices {
			if d.XDP == "generic" {
				d.XDP, d.Reason = "none", st.Reason
				facts.Devices[name] = d
			}
		}
	}
	s.Host = facts
	return nil
}
