package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const rollbackDoc = `Make this machine what revision REV of its history says, or the one before the present one. It is an apply of that
configuration in the place of the files: it shows a plan, asks, verifies, and has the flags and the exit codes of apply.`

func newRollback(o *cli.Options) *cobra.Command {
	var opt cli.ApplyOptions
	c := &cobra.Command{
		Use:   "rollback [REV]",
		Short: "Apply an earlier revision again",
		Long:  rollbackDoc,
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			number := 0
			if len(args) == 1 {
				var err error
				if number, err = strconv.Atoi(args[0]); err != nil || number < 1 {
					return fmt.Errorf("%q is not the number of a revision (see plumb history)", args[0])
				}
			}
			return o.Rollback(c.Context(), number, opt)
		},
	}
	applyFlags(c, &opt)
	return hostFlags(c, o)
}
