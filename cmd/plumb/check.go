package main

import (
	"time"

	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/checks"
	"plumb.internal/plumb/internal/cli"
)

const checkDoc = `Make the checks of the files, or those that are named, from this node: each from inside its source's network namespace,
with sockets of its own. Exit code 0 all hold, 1 one doesn't.`

func newCheck(o *cli.Options) *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "check [NAME...]",
		Short: "Find out whether what should be reachable is",
		Long:  checkDoc,
		RunE: func(c *cobra.Command, args []string) error {
			return o.RunChecks(c.Context(), args, timeout)
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", checks.Within, "time of each check that names none (within)")
	return hostFlags(c, o)
}
