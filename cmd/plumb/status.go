package main

import (
	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const statusDoc = `Say what was chosen for each feature and why, and whether every pod is as the files want it. Exit code 2 where one isn't.`

func newStatus(o *cli.Options) *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Say whether the machine is as the files want it",
		Long:  statusDoc,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.Status(c.Context())
		},
	}
	return hostFlags(c, o)
}
