package main

import (
	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const confirmDoc = `Keep what "plumb apply --confirm" has applied: from now on it is the last good state. The files are needed only to find the
node's name, and not at all with --node. Exit code 1 where nothing waits to be confirmed.`

func newConfirm(o *cli.Options) *cobra.Command {
	c := &cobra.Command{
		Use:   "confirm",
		Short: "Keep what apply --confirm has applied",
		Long:  confirmDoc,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.Confirm(c.Context())
		},
	}
	return hostFlags(c, o)
}
