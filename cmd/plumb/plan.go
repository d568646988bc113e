package main

import (
	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const planDoc = `Show what apply would do: every kernel object, why, and whom it disrupts. Exit code 0; 3 where somebody else's objects are in
the way; with --detailed-exitcode 2 where there are changes.`

func newPlan(o *cli.Options) *cobra.Command {
	var opt cli.PlanOptions
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show what apply would do",
		Long:  planDoc,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.Plan(c.Context(), opt)
		},
	}
	c.Flags().StringVar(&opt.Features, "features", "", "plan from nothing for the machine that this file describes")
	c.Flags().StringVar(&opt.Out, "out", "", "save the plan in this file, for apply")
	c.Flags().BoolVar(&opt.Detailed, "detailed-exitcode", false, "exit code 2 where there are changes")
	c.Flags().BoolVar(&opt.Destroy, "destroy", false, "show what destroy would do")
	return hostFlags(c, o)
}
