package main

import (
	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const featuresDoc = `Say what this machine's kernel can do, by trying it in a network namespace that is thrown away. The JSON form is the file that
plan and validate accept with --features, on any machine.`

func newFeatures(o *cli.Options) *cobra.Command {
	var refresh bool
	c := &cobra.Command{
		Use:   "features",
		Short: "Say what this kernel can do",
		Long:  featuresDoc,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.Features(c.Context(), refresh)
		},
	}
	c.Flags().BoolVar(&refresh, "refresh", false, "try again instead of using the cached answers")
	return hostFlags(c, o)
}
