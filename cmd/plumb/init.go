package main

import (
	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const initDoc = `Write a starter repository for this machine, or a copy of an example. The schema is vendored, so that stock cue vet, cue fmt
and cue lsp work offline. No file is ever overwritten.`

func newInit(o *cli.Options) *cobra.Command {
	var example string
	c := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Write a starter repository",
		Long:  initDoc,
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.Dir = args[0]
			}
			return o.Init(c.Context(), example)
		},
	}
	c.Flags().StringVar(&example, "example", "", "copy this example instead")
	return c
}
