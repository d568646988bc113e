package main

import (
	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

func newPod(o *cli.Options) *cobra.Command {
	pod := &cobra.Command{Use: "pod", Short: "Look at pods", Args: cobra.NoArgs}
	pod.AddCommand(hostFlags(&cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the pods as the kernel has them",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.Pods(c.Context())
		},
	}, o))
	return pod
}
