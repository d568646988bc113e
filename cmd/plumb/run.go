package main

import (
	"time"

	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const runDoc = `Keep this machine what the files say until SIGTERM: what others change is undone, changed files are applied. Files that
can't be used leave in force what is; a change that needs a flag waits for it, given here or by plumb apply. The data path stays
when the daemon stops.`

func newRun(o *cli.Options) *cobra.Command {
	var opt cli.RunOptions
	c := &cobra.Command{
		Use:   "run",
		Short: "Keep this machine what the files say",
		Long:  runDoc,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.Run(c.Context(), opt)
		},
	}
	f := c.Flags()
	f.DurationVar(&opt.Interval, "interval", time.Minute, "between two full looks at the kernel, for what has no event")
	f.BoolVar(&opt.Once, "once", false, "look and apply once, then end")
	f.StringVar(&opt.Metrics, "metrics", "", "address to serve Prometheus metrics on, as HOST:PORT")
	f.StringVar(&opt.Group, "group", "", "group that may ask the daemon (default: root alone)")
	f.BoolVar(&opt.AllowDisruption, "allow-disruption", false, "allow changes of the files that cut a pod, a link or a session")
	f.BoolVar(&opt.AllowDelete, "allow-delete", false, "allow changes of the files that remove more than half of the objects")
	return hostFlags(c, o)
}
