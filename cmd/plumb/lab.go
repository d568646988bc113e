package main

import (
	"errors"

	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const labDoc = `Run the repository's nodes in private network namespaces, each with its own uplinks, folders and cgroup, joined by a router.
Nothing of this machine's network changes.`

func newLab(o *cli.Options) *cobra.Command {
	var name string
	lab := &cobra.Command{Use: "lab", Short: "Try the repository in private network namespaces", Long: labDoc, Args: cobra.NoArgs}
	lab.PersistentFlags().StringVar(&name, "name", "", "name of the lab (default: from the repository's folder)")
	lab.AddCommand(
		&cobra.Command{
			Use:   "up",
			Short: "Bring up the nodes and apply the repository in them",
			Args:  cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				return o.LabUp(c.Context(), name)
			},
		},
		&cobra.Command{
			Use:   "exec [NODE] -- COMMAND...",
			Short: "Run a command on a node; the exit code is the command's",
			Args: func(c *cobra.Command, args []string) error {
				if dash := c.ArgsLenAtDash(); dash < 0 || dash > 1 || len(args) == dash {
					return errors.New("usage: plumb lab exec [NODE] -- COMMAND")
				}
				return nil
			},
			RunE: func(c *cobra.Command, args []string) error {
				node := o.Node
				if c.ArgsLenAtDash() == 1 {
					node, args = args[0], args[1:]
				}
				return o.LabExec(name, node, args)
			},
		},
		&cobra.Command{
			Use:   "status",
			Short: "Say whether the lab is up",
			Args:  cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				return o.LabStatus(name)
			},
		},
		&cobra.Command{
			Use:   "down",
			Short: "Remove the lab",
			Args:  cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				return o.LabDown(name)
			},
		},
	)
	return lab
}
