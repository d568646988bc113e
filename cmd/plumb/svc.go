package main

import (
	"github.com/spf13/cobra"

	"plumb.internal/plumb/internal/cli"
)

const svcDoc = `List the services as the data path has them: a line for each backend, read from the eBPF maps, or from the nftables table.
The way is that of the programs that are attached now. A backend that is down doesn't answer its probes. Connections are those
that are under way: sockets that were led to the backend, and flows of packets.`

func newSvc(o *cli.Options) *cobra.Command {
	svc := &cobra.Command{Use: "svc", Short: "Look at services", Args: cobra.NoArgs}
	svc.AddCommand(hostFlags(&cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the services as the data path has them",
		Long:    svcDoc,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.Services(c.Context())
		},
	}, o))
	return svc
}
