package main

import (
	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const validateDoc = `Compile the repository and report every mistake with file:line:column. Neither root nor the kernel is needed.

A fleet is of several sorts of machines: --features 'board-*=4.19-arm64.json' is for the nodes whose names match, and may be given
several times; the first that fits counts. One without a name is for all nodes that no other names.`

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
	c.Flags().StringArrayVar(&v.Features, "features", nil, "compile for the machine that this FILE describes, or NODES=FILE (default: accept every feature)")
	c.Flags().BoolVar(&v.AllNodes, "all-nodes", false, "check every node's slice")
	return c
}
