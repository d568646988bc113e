package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/checks"
	"plumb.internal/plumb/internal/probe"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
)

// checked is what `plumb check -o json` writes.
type checked struct {
	FormatVersion string     `json:"format_version"`
	Node          string     `json:"node"`
	Checks        []checkRow `json:"checks"`
}

// checkRow is one check and what came of it.
type checkRow struct {
	Name     string   `json:"name"`
	From     string   `json:"from"`
	To       string   `json:"to"`
	Type     string   `json:"type"`
	Targets  []string `json:"targets"` // addresses; empty for a name, which the source's name servers are asked for
	Expect   string   `json:"expect"`
	WithinMS float64  `json:"within_ms"`
	Holds    bool     `json:"holds"`
	Reason   string   `json:"reason,omitempty"`
	TookMS   float64  `json:"took_ms"`
}

// RunChecks makes the node's checks, or those that are named, and prints what came. The exit code is 1 if one doesn't hold.
func (o *Options) RunChecks(ctx context.Context, names []string, timeout time.Duration) error {
	if timeout <= 0 {
		return fmt.Errorf("--timeout %s is no time to wait", timeout)
	}
	s, err := o.begin(ctx, "check", "")
	if err != nil {
		return err
	}
	defer s.close()
	wanted, err := s.checksNamed(names)
	if err != nil {
		return err
	}
	results, err := checks.Run(ctx, s.host, wanted, timeout)
	if err != nil {
		return err
	}
	if o.JSON() {
		err = o.writeJSON(checked{"1", s.node, checkRows(results)})
	} else {
		err = o.writeChecks(results)
	}
	if err == nil && len(failing(results)) > 0 {
		return &Exit{Code: ExitError}
	}
	return err
}

// checksNamed are the checks of these names, or all where there are none.
func (s *session) checksNamed(names []string) ([]compiler.Check, error) {
	if len(names) == 0 {
		return s.compiled.Checks, nil
	}
	var all []compiler.Check
	var errs []error
	for _, name := range names {
		i := slices.IndexFunc(s.compiled.Checks, func(c compiler.Check) bool { return c.Name == name })
		_, declared := s.source.Config.Checks[name]
		switch {
		case i >= 0:
			all = append(all, s.compiled.Checks[i])
		case declared:
			errs = append(errs, fmt.Errorf("check %q is made from another node than %s", name, s.node))
		default:
			errs = append(errs, fmt.Errorf("no check is named %q; there are: %s", name,
				cmp.Or(strings.Join(slices.Sorted(maps.Keys(s.source.Config.Checks)), ", "), "none")))
		}
	}
	return all, errors.Join(errs...)
}

func failing(results []checks.Result) []checks.Result {
	return slices.DeleteFunc(slices.Clone(results), func(r checks.Result) bool { return r.Holds })
}

func checkRows(results []checks.Result) []checkRow {
	rows := make([]checkRow, len(results))
	for i, r := range results {
		rows[i] = checkRow{
			Name: r.Name, From: r.From, To: r.To, Type: r.Type, Targets: []string{}, Expect: expectation(r), Holds: r.Holds, Reason: r.Reason,
			WithinMS: float64(r.Within.Microseconds()) / 1000, TookMS: float64(r.Took.Microseconds()) / 1000,
		}
		for _, t := range r.Targets {
			rows[i].Targets = append(rows[i].Targets, probe.Probe{Type: r.Type, Addr: t}.Target())
		}
	}
	return rows
}

func expectation(r checks.Result) string {
	if r.Unreachable {
		return "unreachable"
	}
	return "reachable"
}

// writeChecks prints a line for each check.
func (o *Options) writeChecks(results []checks.Result) error {
	if len(results) == 0 {
		_, err := fmt.Fprintln(o.Out, "there are no checks of this node")
		return err
	}
	w := tabwriter.NewWriter(o.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "CHECK\tFROM\tTO\tTYPE\tEXPECTED\tWITHIN\tRESULT\tTIME\tREASON")
	for _, r := range results {
		result := "holds"
		if !r.Holds {
			result = "FAILS"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.From, r.To, r.Type, expectation(r), r.Within, result,
			probe.Milliseconds(r.Took), orDash(r.Reason))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write checks: %w", err)
	}
	return nil
}

// checkBefore makes the checks before an apply. It returns the names of those that must hold after it: they hold now, or
// are about something that isn't there yet.
func (s *session) checkBefore(ctx context.Context, observed *reconciler.Observed) (must map[string]bool, err error) {
	must = map[string]bool{}
	all := observed.All()
	var there []compiler.Check
	for _, c := range s.compiled.Checks {
		if len(all) == 0 || slices.ContainsFunc(c.Needs, func(id resource.ID) bool { _, ok := all[id]; return !ok }) {
			must[c.Name] = true
		} else {
			there = append(there, c)
		}
	}
	began := time.Now()
	results, err := checks.Run(ctx, s.host, there, checks.Within)
	s.checking = time.Since(began)
	if err != nil {
		return nil, fmt.Errorf("before anything was changed: %w", err)
	}
	for _, r := range results {
		must[r.Name] = r.Holds
	}
	return must, nil
}

// checkAfter makes the checks after an apply; must says which of them are to hold. Where an apply had nothing to do it is
// nil: then nothing was broken by it.
func (s *session) checkAfter(ctx context.Context, must map[string]bool) (results []checks.Result, failed error) {
	results, err := checks.Run(ctx, s.host, s.compiled.Checks, checks.Within)
	if err != nil {
		return nil, err
	}
	var broken []string
	for _, r := range failing(results) {
		if must[r.Name] {
			broken = append(broken, fmt.Sprintf("  %s (%s): %s", r.Name, r.Check, r.Reason))
		}
	}
	if len(broken) > 0 {
		failed = fmt.Errorf("applied and verified, but what held before, or is new, doesn't hold:\n%s", strings.Join(broken, "\n"))
	}
	return results, failed
}

// writeOutcome says in one line how many checks hold, and in one line each which don't and didn't before either.
func (o *Options) writeOutcome(results []checks.Result, must map[string]bool) {
	if len(results) == 0 {
		return
	}
	bad := failing(results)
	fmt.Fprintf(o.Out, "checks: %d of %d hold\n", len(results)-len(bad), len(results))
	for _, r := range bad {
		if !must[r.Name] {
			fmt.Fprintf(o.Err, "warning: check %s fails, and not by this apply: %s\n", r.Name, r.Reason)
		}
	}
}
