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

// sandboxed are the probes that make something in a network namespace, those first that wait longest for the kernel.
func sandboxed() []probe {
	return slices.Concat(attachProbes, qdiscProbes, linkProbes, baseProbes, markProbes, nftProbes, tcpProbes)
}

// bare are the probes that need no namespace, and get no sandbox: to make one and take it down is more work than they are.
func bare() []probe { return slices.Concat(bpfProbes, hookProbes) }

// probes is the table of everything that can be asked. A recorded feature file holds an answer for each of them.
func probes() []probe { return slices.Concat(sandboxed(), bare()) }

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

// parallel is how many probes run at a time. Most of their time is waiting for the kernel to let go of programs.
const parallel = 8

// Probe asks the running kernel by trying each feature in a network namespace that is thrown away, and adds the facts of
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
	g.SetLimit(parallel)
	ask := func(p probe, run func(try func(*sandbox) error) error) {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("probe features: %w", err)
			}
			st := p.answer(run(p.try))
			mu.Lock()
			defer mu.Unlock()
			set.Features[p.feature] = st
			return nil
		})
	}
	for _, p := range sandboxed() {
		ask(p, inSandbox)
	}
	for _, p := range bare() {
		ask(p, func(try func(*sandbox) error) error { return try(nil) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
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
