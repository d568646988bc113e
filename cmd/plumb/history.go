package main

import (
	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const historyDoc = `List what was applied to this machine: revision, time, who, the commit of the repository, and what it changed. The newest
revision comes first; it is the last good state. The files are needed only to find the node's name, and not at all with --node.`

func newHistory(o *cli.Options) *cobra.Command {
	c := &cobra.Command{
		Use:   "history",
		Short: "List what was applied to this machine",
		Long:  historyDoc,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.History(c.Context())
		},
	}
	return hostFlags(c, o)
}
