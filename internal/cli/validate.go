package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/go-multierror"

	"plumb.internal/plumb/reconciler/features"
)

// ValidateOptions are the flags of `plumb validate`.
type ValidateOptions struct {
	// Features are files, "FILE" or "NODES=FILE" with a pattern of names; a node that none is for may have every feature.
	Features []string
	AllNodes bool
}

// Validate compiles the repository and says whether it is right. It needs neither root nor the kernel. A host that is none
// of the nodes validates them all: that is a laptop or CI.
func (o *Options) Validate(ctx context.Context, v ValidateOptions) error {
	nodes, warnings, err := o.validate(ctx, v)
	if !o.JSON() {
		for _, w := range warnings {
			fmt.Fprintln(o.Err, "warning:", w)
		}
		if err == nil {
			fmt.Fprintf(o.Out, "valid: %s\n", strings.Join(nodes, ", "))
		}
		return err
	}
	if err := o.writeJSON(struct {
		FormatVersion string   `json:"format_version"`
		Valid         bool     `json:"valid"`
		Nodes         []string `json:"nodes"`
		Errors        []string `json:"errors"`
		Warnings      []string `json:"warnings"`
	}{"1", err == nil, append([]string{}, nodes...), messages(err), append([]string{}, warnings...)}); err != nil {
		return err
	}
	if err != nil {
		return &Exit{Code: ExitError}
	}
	return nil
}

func (o *Options) validate(ctx context.Context, v ValidateOptions) (nodes, warnings []string, err error) {
	src, err := o.Load(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer src.Close()
	node, err := o.SelectNode(src.Config)
	switch {
	case err == nil && !v.AllNodes:
		nodes = []string{node}
	case o.Node != "":
		return nil, nil, err
	default:
		nodes = slices.Sorted(maps.Keys(src.Config.Nodes))
	}
	if len(nodes) == 0 {
		return nil, nil, err
	}
	machines, err := readMachines(v.Features, slices.Sorted(maps.Keys(src.Config.Nodes)))
	if err != nil {
		return nil, nil, err
	}
	// What is wrong with the fleet is found again for each node; it is said once.
	var all *multierror.Error
	seen := map[string]bool{}
	for _, n := range nodes {
		c, err := compile(src, n, machines.of(n))
		for _, e := range split(err) {
			if !seen[e.Error()] {
				seen[e.Error()] = true
				all = multierror.Append(all, e)
			}
		}
		if err == nil {
			warnings = append(warnings, c.Warnings...)
		}
	}
	if all != nil {
		all.ErrorFormat = lines
	}
	return nodes, warnings, all.ErrorOrNil()
}

// split takes an error of several apart.
func split(err error) []error {
	var all *multierror.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &all):
		return all.Errors
	}
	return []error{err}
}

func messages(err error) []string {
	out := []string{}
	for _, e := range split(err) {
		out = append(out, e.Error())
	}
	return out
}

// lines prints errors one a line.
func lines(errs []error) string {
	var b []string
	for _, e := range errs {
		b = append(b, e.Error())
	}
	return strings.Join(b, "\n")
}

// machine is what nodes can do whose names match a pattern.
type machine struct {
	nodes string
	set   *features.Set
}

// machines are those of a fleet; the first that fits a node counts.
type machines []machine

// readMachines reads the files of --features. A pattern that no node matches is a mistake.
func readMachines(files, nodes []string) (all machines, err error) {
	var rest machines
	for _, text := range files {
		pattern, file, named := strings.Cut(text, "=")
		if !named {
			pattern, file = "*", text
		}
		m := machine{nodes: pattern}
		if !slices.ContainsFunc(nodes, m.fits) {
			return nil, fmt.Errorf("--features %s: no node matches %q: %s", text, pattern, strings.Join(nodes, ", "))
		}
		if m.set, err = features.ReadFile(file); err != nil {
			return nil, err
		}
		if named {
			all = append(all, m)
		} else {
			rest = append(rest, m)
		}
	}
	return append(all, rest...), nil
}

// fits reports whether a node is such a machine.
func (m machine) fits(node string) bool {
	ok, _ := path.Match(m.nodes, node) // a pattern that can't be read matches none
	return ok
}

// of is what a node can do: everything, where nobody says.
func (all machines) of(node string) *features.Set {
	if i := slices.IndexFunc(all, func(m machine) bool { return m.fits(node) }); i >= 0 {
		return all[i].set
	}
	return &features.Set{AcceptAll: true}
}
