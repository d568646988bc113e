package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const applyDoc = `Make this machine what the files say, and verify it. With PLANFILE exactly that saved plan, if it still fits. Exit code 0
converged, 1 error, 3 conflict, 4 refused: it needs a flag, a yes, or the saved plan is stale.

With --confirm DURATION the machine is put back as it was, and that is verified, unless somebody says "plumb confirm" in time:
a guardian, a process of its own, does it when the time runs out, when the apply fails or is killed, when a check fails that
held before, or when this session's peer or a default gateway that answered doesn't any more. Exit code 5 says that it was
taken back.`

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
	c.Flags().Var((*positive)(&opt.Confirm), "confirm", "take it back unless it is confirmed within this time, such as 60s")
	c.Flags().IntVar(&opt.Parallel, "parallel", 0, "independent changes at once (default: a few per processor)")
}

// positive is a flag for a time that isn't nothing.
type positive time.Duration

func (p *positive) String() string {
	if *p == 0 {
		return ""
	}
	return time.Duration(*p).String()
}

func (p *positive) Type() string { return "duration" }

func (p *positive) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	if d < time.Second {
		return errors.New("less than a second is no time to confirm in")
	}
	*p = positive(d)
	return nil
}
