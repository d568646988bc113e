package main

import (
	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const allocateDoc = `Write the addresses of all pods that name none into addresses.cue, so that git remembers them.`

func newAllocate(o *cli.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "allocate",
		Short: "Write addresses.cue",
		Long:  allocateDoc,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.Allocate(c.Context())
		},
	}
}
