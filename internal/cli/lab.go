package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"text/tabwriter"

	"plumb.internal/plumb/internal/lab"
)

// labName is the name of the lab: the flag, or that of the repository's folder.
func (o *Options) labName(name string) (string, error) {
	if name != "" {
		return name, nil
	}
	return lab.DefaultName(o.Dir)
}

// openLab returns a lab that is up.
func (o *Options) openLab(name string) (*lab.Lab, error) {
	name, err := o.labName(name)
	if err != nil {
		return nil, err
	}
	return lab.Open(name)
}

// LabUp brings up the repository's nodes, or the one that --node names, in a lab, and applies the repository in each. The
// exit code is that of the first apply that fails; its node stays up, to be looked at.
func (o *Options) LabUp(ctx context.Context, name string) error {
	if err := needRoot("lab up"); err != nil {
		return err
	}
	name, err := o.labName(name)
	if err != nil {
		return err
	}
	src, err := o.Load(ctx)
	if err != nil {
		return err
	}
	defer src.Close()
	var only []string
	if o.Node != "" {
		only = []string{o.Node}
	}
	nodes, err := lab.NodesOf(src.Config, only...)
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		_, err := o.SelectNode(src.Config)
		return err
	}
	l, err := lab.Up(ctx, name, o.Dir, nodes)
	if err != nil {
		return err
	}
	var failed error
	for _, n := range l.Nodes {
		if len(l.Nodes) > 1 {
			fmt.Fprintf(o.Err, "node %s:\n", n.Name)
		}
		if err := o.labApply(ctx, l, n.Name); err != nil && failed == nil {
			failed = err
		}
	}
	return failed
}

// labApply runs `plumb apply --yes` in a node.
func (o *Options) labApply(ctx context.Context, l *lab.Lab, node string) error {
	argv := []string{lab.Self, "apply", "--yes", "-C", l.Dir, "--node", node, "-o", o.Output}
	for _, tag := range o.Tags {
		argv = append(argv, "-t", tag)
	}
	if o.NoColor {
		argv = append(argv, "--no-color")
	}
	cmd := l.Command(ctx, node, argv...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = o.In, o.Out, o.Err
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return &Exit{Code: exit.ExitCode()}
	} else if err != nil {
		return fmt.Errorf("apply in node %s: %w", node, err)
	}
	return nil
}

// LabExec replaces this process by a command in a node of the lab.
func (o *Options) LabExec(name, node string, argv []string) error {
	if err := needRoot("lab exec"); err != nil {
		return err
	}
	l, err := o.openLab(name)
	if err != nil {
		return err
	}
	return notRun(l.Exec(node, argv))
}

// LabStatus prints the nodes of a lab and their uplinks.
func (o *Options) LabStatus(name string) error {
	l, err := o.openLab(name)
	if err != nil {
		return err
	}
	if o.JSON() {
		return o.writeJSON(l)
	}
	fmt.Fprintf(o.Out, "lab %s is up, for %s\n\n", l.Name, l.Dir)
	w := tabwriter.NewWriter(o.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tPID\tUPLINK\tADDRESSES")
	for _, n := range l.Nodes {
		for _, up := range n.Uplinks {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", n.Name, n.PID, up.Name, list(up.Addresses))
		}
	}
	return w.Flush()
}

// LabDown removes a lab. That there is none is no error.
func (o *Options) LabDown(name string) error {
	if err := needRoot("lab down"); err != nil {
		return err
	}
	name, err := o.labName(name)
	if err != nil {
		return err
	}
	found, err := lab.Down(name)
	if err != nil {
		return err
	}
	if o.JSON() {
		return o.writeJSON(struct {
			FormatVersion string `json:"format_version"`
			Name          string `json:"name"`
			Removed       bool   `json:"removed"` // false: there was none
		}{"1", name, found})
	}
	if found {
		fmt.Fprintf(o.Out, "lab %s is gone\n", name)
	} else {
		fmt.Fprintf(o.Out, "there is no lab %s\n", name)
	}
	return nil
}
