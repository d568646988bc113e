package main

import (
	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const suspendDoc = `Stop the daemon from changing anything, for work by hand. It holds across restarts of the daemon, until plumb resume or the
next reboot.`

func newSuspend(o *cli.Options) *cobra.Command {
	reason := ""
	c := &cobra.Command{
		Use:   "suspend",
		Short: "Stop the daemon from changing anything",
		Long:  suspendDoc,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.Suspend(c.Context(), reason)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for those who ask for the status")
	return hostFlags(c, o)
}

func newResume(o *cli.Options) *cobra.Command {
	return hostFlags(&cobra.Command{
		Use:   "resume",
		Short: "Let a suspended daemon go on",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.Resume(c.Context())
		},
	}, o)
}
