package main

import (
	"errors"

	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const execDoc = `Run a command in a pod's network namespace. The exit code is the command's.`

func newExec(o *cli.Options) *cobra.Command {
	return hostFlags(&cobra.Command{
		Use:   "exec POD -- COMMAND...",
		Short: "Run a command in a pod",
		Long:  execDoc,
		Args: func(c *cobra.Command, args []string) error {
			if c.ArgsLenAtDash() != 1 || len(args) < 2 {
				return errors.New("usage: plumb exec POD -- COMMAND")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			return o.Exec(c.Context(), args[0], args[1:])
		},
	}, o)
}
