package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const rootDoc = `plumb sets up the network of a machine from CUE files in git: pods, links, addresses, routes, kernel settings. It shows a
plan, applies it, reads it back, and never touches what it doesn't own.`

// run runs the command line. SIGINT and SIGTERM stop a command before its next step; a second one ends it at once.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return cli.Report(os.Stderr, newRoot().ExecuteContext(ctx))
}

func newRoot() *cobra.Command {
	o := &cli.Options{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	root := &cobra.Command{
		Use:           "plumb",
		Short:         "Networking of a machine from CUE files: plan, apply, verify",
		Long:          rootDoc,
		Version:       cli.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return o.Check()
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	f := root.PersistentFlags()
	f.StringVarP(&o.Dir, "dir", "C", ".", "folder of the repository")
	f.StringVar(&o.Node, "node", "", "node to work for (default: the host name, or the only node)")
	f.StringArrayVarP(&o.Tags, "tag", "t", nil, "value for a CUE @tag, as KEY=VALUE; may be repeated")
	f.BoolVarP(&o.Verbose, "verbose", "v", false, "say more")
	f.StringVarP(&o.Output, "output", "o", "text", "text or json")
	f.BoolVar(&o.NoColor, "no-color", false, "no colours, as with NO_COLOR")
	root.AddCommand(
		newInit(o), newValidate(o), newFeatures(o), newAllocate(o), newPlan(o), newApply(o), newConfirm(o), newHistory(o), newRollback(o), newDestroy(o),
		newRun(o), newSuspend(o), newResume(o), newStatus(o), newSvc(o), newPod(o), newExec(o), newCheck(o), newLab(o),
	)
	return root
}

// hostFlags are the flags of commands that reach the kernel.
func hostFlags(c *cobra.Command, o *cli.Options) *cobra.Command {
	f := c.Flags()
	f.StringVar(&o.Cgroup, "cgroup", "", "cgroup2 folder of the node (default: where cgroup2 is mounted)")
	f.StringVar(&o.BPFFS, "bpffs", "", "mount point of bpffs (default: where it is mounted)")
	f.StringVar(&o.RunDir, "run-dir", cli.DefaultRunDir, "folder for locks, records and caches")
	f.StringVar(&o.StateDir, "state-dir", cli.DefaultStateDir, "folder for history and the last good state")
	return c
}
