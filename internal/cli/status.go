package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/guard"
	"plumb.internal/plumb/reconciler/resource"
)

// status is what `plumb status -o json` writes.
type status struct {
	FormatVersion string              `json:"format_version"`
	Node          string              `json:"node"`
	Kernel        string              `json:"kernel"`
	Drifted       bool                `json:"drifted"`
	Choices       []choiceStatus      `json:"choices"`
	Data          *dataStatus         `json:"data_path"` // null where the node has none
	Details       *nodeStatus         `json:"details"`   // null unless --verbose
	Pods          []podStatus         `json:"pods"`
	Conflicts     []resource.Conflict `json:"conflicts"`
	Warnings      []string            `json:"warnings"`
	Daemon        *api.Status         `json:"daemon"` // null where none runs
}

// choiceStatus is one choice, and what the kernel has in its place.
type choiceStatus struct {
	resource.Choice
	Effective string `json:"effective"`
}

// podStatus is one pod, or the node itself with the name "".
type podStatus struct {
	Name    string   `json:"name"`
	Drifted bool     `json:"drifted"`
	State   string   `json:"state"`
	Changes []string `json:"changes"` // what an apply would do
}

// Status prints what is wanted and what is there, as the daemon sees it where one runs. The exit code is 2 where they differ.
func (o *Options) Status(ctx context.Context) error {
	var st status
	what := "status"
	if o.Verbose {
		what += "?verbose=true"
	}
	err := o.look(ctx, what, &st, func(s *session) (err error) {
		st, err = s.status(ctx, o.Verbose)
		return err
	})
	if err != nil {
		return err
	}
	if o.JSON() {
		err = o.writeJSON(st)
	} else {
		err = o.writeStatus(st)
	}
	if err == nil && (st.Drifted || st.Daemon != nil && (st.Daemon.State == api.Degraded || st.Daemon.State == api.Waiting)) {
		return &Exit{Code: ExitChanges}
	}
	return err
}

// status looks at the machine.
func (s *session) status(ctx context.Context, verbose bool) (status, error) {
	if p, state, err := guard.Look(s.host); err != nil {
		s.host.Warn("%v", err)
	} else if p != nil {
		s.host.Warn("%v", &guard.PendingError{State: *state})
	}
	p, observed, err := s.plan(ctx)
	if err != nil {
		return status{}, err
	}
	st := status{
		FormatVersion: "1", Node: s.node, Kernel: p.Kernel, Drifted: !p.Empty() || len(p.Conflicts) > 0,
		Choices: []choiceStatus{}, Conflicts: append([]resource.Conflict{}, p.Conflicts...),
		Warnings: append([]string{}, p.Warnings...),
	}
	for _, c := range p.Choices {
		st.Choices = append(st.Choices, choiceStatus{c, c.Effective(p.Changes)})
	}
	all := observed.All()
	if st.Data, err = readData(s.host, all); err != nil {
		return status{}, err
	}
	if verbose {
		if st.Details, err = s.nodeStatus(ctx, all, st.Data); err != nil {
			return status{}, err
		}
	}
	changes := map[string][]string{}
	for _, c := range p.Changes {
		pod := c.Pod()
		changes[pod] = append(changes[pod], c.Action.Symbol()+" "+c.ID.String())
	}
	there := map[string]bool{}
	for id := range all {
		there[id.NetNS] = true
	}
	names := map[string]bool{"": true}
	for _, pod := range s.compiled.Pods {
		names[pod.Name] = true
	}
	for pod := range changes {
		names[pod] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		ps := podStatus{Name: name, Changes: append([]string{}, changes[name]...), Drifted: len(changes[name]) > 0}
		path, waiting := observed.Waiting[name]
		switch {
		case waiting:
			ps.State = "waiting for " + path
		case !ps.Drifted:
			ps.State = "as wanted"
		case name != "" && !there[name]:
			ps.State = "not applied"
		default:
			ps.State = fmt.Sprintf("drifted (%d)", len(ps.Changes))
		}
		st.Pods = append(st.Pods, ps)
	}
	return st, nil
}

func (o *Options) writeStatus(st status) error {
	fmt.Fprintf(o.Out, "node %s, kernel %s\n\n", st.Node, st.Kernel)
	if st.Daemon != nil {
		o.writeDaemon(st.Daemon)
	}
	w := tabwriter.NewWriter(o.Out, 0, 8, 2, ' ', 0)
	if len(st.Choices) > 0 {
		fmt.Fprintln(w, "FEATURE\tWANTED\tEFFECTIVE\tREASON")
		for _, c := range st.Choices {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Subject, c.Wanted, c.Effective, c.Reason)
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	if st.Data != nil {
		if err := o.writeData(st.Data); err != nil {
			return err
		}
	}
	if st.Details != nil {
		if err := o.writeNode(st.Details); err != nil {
			return err
		}
	}
	fmt.Fprintln(w, "POD\tSTATE")
	for _, p := range st.Pods {
		name := p.Name
		if name == "" {
			name = "(node)"
		}
		fmt.Fprintf(w, "%s\t%s\n", name, p.State)
		if o.Verbose && p.Drifted {
			fmt.Fprintf(w, "\t  %s\n", strings.Join(p.Changes, "\n\t  "))
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	for _, c := range st.Conflicts {
		fmt.Fprintf(o.Out, "conflict: %s: %s (%s)\n", c.ID, c.Foreign, c.Owner)
	}
	o.warn(st.Warnings)
	return nil
}
