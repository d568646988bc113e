package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/nft"
	"plumb.internal/plumb/reconciler/resource/service"
)

// services is what `plumb svc ls -o json` writes.
type services struct {
	FormatVersion string       `json:"format_version"`
	Node          string       `json:"node"`
	Services      []serviceRow `json:"services"`
}

// serviceRow is one frontend as the data path has it.
type serviceRow struct {
	frontend resource.Frontend

	ID          string       `json:"id"`    // in the maps
	Field       string       `json:"field"` // of the files, that asks for it; "" for none
	Protocol    string       `json:"protocol"`
	Address     string       `json:"address"`
	Port        uint16       `json:"port"`
	Way         string       `json:"way"`
	Algorithm   string       `json:"algorithm"`
	TableSize   int          `json:"table_size"` // of Maglev; else 0
	Affinity    int          `json:"affinity_seconds"`
	Connections *int         `json:"connections"` // null where nobody counts them
	Backends    []backendRow `json:"backends"`
	Broken      string       `json:"broken,omitempty"`
}

// backendRow is one backend of a frontend.
type backendRow struct {
	Address     string `json:"address"`
	Port        uint16 `json:"port"`
	Weight      int    `json:"weight"`
	State       string `json:"state"`
	Connections *int   `json:"connections"`
}

// Services lists the services as the maps, or the nftables table, hold them. The files only tell the names.
func (o *Options) Services(ctx context.Context) error {
	var all services
	err := o.look(ctx, "services", &all, func(s *session) (err error) {
		all, err = s.services(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if o.JSON() {
		return o.writeJSON(all)
	}
	return o.writeServices(all.Services)
}

// services reads them.
func (s *session) services(ctx context.Context) (services, error) {
	observed, err := reconciler.Observe(ctx, s.host, s.compiled.State)
	if err != nil {
		return services{}, err
	}
	rows, err := serviceRows(ctx, s.host, observed.All(), s.compiled.State)
	return services{FormatVersion: "1", Node: s.node, Services: rows}, err
}

// serviceRows lists what was observed, by address. Of the desired state come the names alone.
func serviceRows(ctx context.Context, h *host.Host, owned, desired resource.State) ([]serviceRow, error) {
	rows := []serviceRow{}
	d := datapathOf(owned)
	way, mapped := d.way(), false
	for _, r := range owned {
		if s, ok := r.(service.Service); ok && s.Leftover == "" {
			rows = append(rows, serviceRow{frontend: s.Frontend, Way: way, Broken: s.Broken})
			mapped = true
		}
	}
	if d.table != nil {
		for _, f := range d.table.Frontends {
			rows = append(rows, serviceRow{frontend: f, Way: wayNftables})
		}
	}
	slices.SortFunc(rows, func(a, b serviceRow) int {
		return cmp.Or(a.frontend.At().Compare(b.frontend.At()), cmp.Compare(a.frontend.Protocol, b.frontend.Protocol), cmp.Compare(a.Way, b.Way))
	})
	var (
		inMaps  service.Connections
		inTable nft.Connections
		err     error
	)
	if mapped {
		if inMaps, err = service.ReadConnections(ctx, h); err != nil {
			return nil, err
		}
	}
	if d.table != nil {
		if inTable, err = nft.ReadConnections(h); err != nil {
			return nil, err
		}
	}
	for i := range rows {
		r := &rows[i]
		if want, ok := desired[service.For(r.frontend)]; ok {
			r.Field = want.Origin()
		}
		r.fill()
		switch {
		case r.Way != wayNftables:
			r.count(inMaps.To)
		case inTable != nil:
			r.count(inTable.To)
		}
	}
	return rows, nil
}

// fill writes the frontend into the row.
func (r *serviceRow) fill() {
	f := r.frontend
	r.ID, r.Protocol, r.Address, r.Port = fmt.Sprintf("%016x", service.ID(f)), f.Protocol, f.Address.String(), f.Port
	r.Algorithm, r.TableSize, r.Affinity = f.Algorithm, f.TableSize, int(f.Affinity/time.Second)
	r.Backends = make([]backendRow, len(f.Backends))
	for i, b := range f.Backends {
		r.Backends[i] = backendRow{Address: b.Address.String(), Port: b.Port, Weight: b.Weight, State: b.State}
	}
}

// count adds the connections of each backend and of all; those to a backend that is gone have no line of their own.
func (r *serviceRow) count(to func(resource.Frontend, resource.Backend) int) {
	all := 0
	for i, b := range r.frontend.Backends {
		n := to(r.frontend, b)
		r.Backends[i].Connections = &n
		all += n
	}
	r.Connections = &all
}

// writeServices prints a line for each backend, the first one behind its service.
func (o *Options) writeServices(rows []serviceRow) error {
	w := tabwriter.NewWriter(o.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SERVICE\tID\tPROTOCOL\tADDRESS\tPORT\tWAY\tALGORITHM\tBACKEND\tWEIGHT\tSTATE\tCONNECTIONS")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t", orDash(r.name()), r.ID, r.Protocol, r.Address, r.Port, r.Way, r.algorithm())
		if len(r.Backends) == 0 {
			fmt.Fprintln(w, "none\t-\trefused\t-")
		}
		for i, b := range r.Backends {
			if i > 0 {
				io.WriteString(w, strings.Repeat("\t", 7))
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", net.JoinHostPort(b.Address, strconv.Itoa(int(b.Port))), b.Weight, b.State, number(b.Connections))
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write services: %w", err)
	}
	return nil
}

// name is the service and its port: "web http" for services.web.ports.http.
func (r serviceRow) name() string {
	return strings.Replace(strings.TrimPrefix(r.Field, "services."), ".ports.", " ", 1)
}

// algorithm is the algorithm with what belongs to it: "maglev 4093, affinity 3h0m0s".
func (r serviceRow) algorithm() string {
	s := r.Algorithm
	if r.TableSize > 0 {
		s += fmt.Sprintf(" %d", r.TableSize)
	}
	if r.Affinity > 0 {
		s += ", affinity " + (time.Duration(r.Affinity) * time.Second).String()
	}
	if r.Broken != "" {
		s += " (" + r.Broken + ")"
	}
	return s
}

// number is a cell of a table; nobody counts what is nil.
func number(n *int) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}
