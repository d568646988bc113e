package main

import (
	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const applyDoc = `Make this machine what the files say, and verify it. With PLANFILE exactly that saved plan, if it still fits. Exit code 0
converged, 1 error, 3 conflict, 4 refused: it needs a flag, a yes, or the saved plan is stale.`

func newApply(o *cli.Options) *cobra.Command {
	var opt cli.ApplyOptions
	c := &cobra.Command{
		Use:   "apply [PLANFILE]",
		Short: "Make this machine what the files say",
		Long:  applyDoc,
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				opt.PlanFile = args[0]
			}
			return o.Apply(c.Context(), opt)
		},
	}
	applyFlags(c, &opt)
	return hostFlags(c, o)
}

// applyFlags are the flags of whatever applies something.
func applyFlags(c *cobra.Command, opt *cli.ApplyOptions) {
	c.Flags().BoolVar(&opt.Yes, "yes", false, "don't ask")
	c.Flags().BoolVar(&opt.AllowDisruption, "allow-disruption", false, "allow changes that cut a pod, a link or this session")
	c.Flags().BoolVar(&opt.AllowDelete, "allow-delete", false, "allow the removal of more than half of the objects")
	c.Flags().IntVar(&opt.Parallel, "parallel", 0, "independent changes at once (default: a few per processor)")
}
