package main

import (
	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const destroyDoc = `Remove everything that plumb owns on this machine and put back what it changed. The files are needed only to find the node's
name, and not at all with --node.`

func newDestroy(o *cli.Options) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "destroy",
		Short: "Remove everything that plumb owns",
		Long:  destroyDoc,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.Destroy(c.Context(), yes)
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "don't ask")
	return hostFlags(c, o)
}
