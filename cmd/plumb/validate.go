package main

import (
	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const validateDoc = `Compile the repository and report every mistake with file:line:column. Neither root nor the kernel is needed.`

func newValidate(o *cli.Options) *cobra.Command {
	var v cli.ValidateOptions
	c := &cobra.Command{
		Use:   "validate",
		Short: "Check the repository",
		Long:  validateDoc,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.Validate(c.Context(), v)
		},
	}
	c.Flags().StringVar(&v.Features, "features", "", "compile for the machine that this file describes (default: accept every feature)")
	c.Flags().BoolVar(&v.AllNodes, "all-nodes", false, "check every node's slice")
	return c
}
