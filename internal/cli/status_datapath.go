package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/service"
)

// dataStatus is what status says of the data path: what is in the kernel now.
type dataStatus struct {
	Services   string            `json:"services"` // socket, packet, socket+packet, nftables, none
	SocketLB   socketStatus      `json:"socket_lb"`
	Algorithms []algorithmStatus `json:"algorithms"`
	Affinity   affinityStatus    `json:"affinity"`
	Graceful   gracefulStatus    `json:"graceful_termination"`
	Bypass     bypassStatus      `json:"conntrack_bypass"`
	Maps       []mapUse          `json:"maps"`
	Counters   []counted         `json:"counters"`
}

// socketStatus is which sockets are led to backends.
type socketStatus struct {
	On        bool     `json:"on"`
	Protocols []string `json:"protocols"`
	Families  []string `json:"families"`
	Hooks     []string `json:"hooks"`
}

// algorithmStatus is how many services pick backends by an algorithm.
type algorithmStatus struct {
	Algorithm string `json:"algorithm"`
	TableSize int    `json:"table_size"` // of Maglev; else 0
	Services  int    `json:"services"`
}

// affinityStatus is how many services lead a client to the same backend again.
type affinityStatus struct {
	Services int `json:"services"`
	Longest  int `json:"longest_seconds"`
}

// gracefulStatus is how many backends finish what they have, and get nothing new.
type gracefulStatus struct {
	Supported   bool `json:"supported"`
	Terminating int  `json:"terminating"`
}

// bypassStatus is whether connections between pods and nodes are kept from being tracked, and the proof of it: how many of
// them the kernel's table holds all the same.
type bypassStatus struct {
	On      bool   `json:"on"`
	Between string `json:"between"`
	Tracked int    `json:"tracked"`
}

// readData looks at the data path; nil where the node has none.
func readData(h *host.Host, owned resource.State) (*dataStatus, error) {
	d := datapathOf(owned)
	s := &dataStatus{Algorithms: []algorithmStatus{}}
	var err error
	if s.Maps, err = readMaps(h); err != nil {
		return nil, err
	}
	if s.Counters, err = readCounters(h); err != nil {
		return nil, err
	}
	if len(s.Maps) == 0 && d.table == nil && d.bypass == nil {
		return nil, nil
	}
	if d.bypass != nil {
		s.Bypass.On, s.Bypass.Between = true, d.bypass.Between()
		if s.Bypass.Tracked, err = d.bypass.Tracked(h); err != nil {
			return nil, err
		}
	}
	s.Services = d.way()
	if d.table != nil {
		s.Services = wayNftables
	}
	s.Graceful.Supported = s.Services != wayNone
	s.SocketLB = socketStatus{On: d.services[waySocket], Hooks: append([]string{}, d.hooks...)}
	s.SocketLB.Protocols, s.SocketLB.Families = d.protocols()
	for _, id := range owned.IDs() {
		if r, ok := owned[id].(service.Service); ok && r.Leftover == "" {
			s.add(r.Frontend)
		}
	}
	if d.table != nil {
		for _, f := range d.table.Frontends {
			s.add(f)
		}
	}
	slices.SortFunc(s.Algorithms, func(a, b algorithmStatus) int {
		if c := strings.Compare(a.Algorithm, b.Algorithm); c != 0 {
			return c
		}
		return a.TableSize - b.TableSize
	})
	return s, nil
}

// add counts one frontend.
func (s *dataStatus) add(f resource.Frontend) {
	i := slices.IndexFunc(s.Algorithms, func(a algorithmStatus) bool { return a.Algorithm == f.Algorithm && a.TableSize == f.TableSize })
	if i < 0 {
		i = len(s.Algorithms)
		s.Algorithms = append(s.Algorithms, algorithmStatus{Algorithm: f.Algorithm, TableSize: f.TableSize})
	}
	s.Algorithms[i].Services++
	if f.Affinity > 0 {
		s.Affinity.Services++
		s.Affinity.Longest = max(s.Affinity.Longest, int(f.Affinity/time.Second))
	}
	for _, b := range f.Backends {
		if b.State == resource.Terminating {
			s.Graceful.Terminating++
		}
	}
}

// writeData prints the data path: a line for each part of it, then its maps.
func (o *Options) writeData(s *dataStatus) error {
	w := tabwriter.NewWriter(o.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "DATA PATH\tEFFECTIVE")
	fmt.Fprintf(w, "services\t%s\n", s.Services)
	fmt.Fprintf(w, "socket LB\t%s\n", s.SocketLB.text())
	fmt.Fprintf(w, "algorithm\t%s\n", s.algorithms())
	fmt.Fprintf(w, "session affinity\t%s\n", s.Affinity.text())
	fmt.Fprintf(w, "graceful termination\t%s\n", s.Graceful.text())
	fmt.Fprintf(w, "conntrack bypass\t%s\n", s.Bypass.text())
	fmt.Fprintln(w)
	if len(s.Maps) > 0 {
		s.writeMaps(w, o.Verbose)
		fmt.Fprintln(w)
	}
	if o.Verbose && len(s.Counters) > 0 {
		s.writeCounters(w)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// writeMaps prints the maps; with all there is to know also what their sizes follow.
func (s *dataStatus) writeMaps(w io.Writer, verbose bool) {
	fmt.Fprint(w, "MAP\tENTRIES\tUSED\tBYTES")
	if verbose {
		fmt.Fprint(w, "\tSIZED BY")
	}
	fmt.Fprintln(w)
	for _, m := range s.Maps {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d", m.Name, m.Entries, m.Used, m.Bytes)
		if verbose {
			fmt.Fprintf(w, "\t%s", m.SizedBy)
		}
		fmt.Fprintln(w)
	}
}

func (s *dataStatus) writeCounters(w io.Writer) {
	fmt.Fprintln(w, "COUNTER\tPACKETS\tBYTES")
	for _, c := range s.Counters {
		fmt.Fprintf(w, "%s\t%d\t%d\n", c.Reason, c.Packets, c.Bytes)
	}
	fmt.Fprintln(w)
}

// text is "TCP, UDP over IPv4, IPv6; peers are told as services".
func (s socketStatus) text() string {
	if !s.On {
		return "off"
	}
	text := strings.Join(s.Protocols, ", ") + " over " + strings.Join(s.Families, ", ")
	if !slices.Contains(s.Hooks, "getpeername4") && !slices.Contains(s.Hooks, "getpeername6") {
		text += "; getpeername tells the backend"
	}
	return text
}

// algorithms is "maglev 4093 (2), random (10)".
func (s *dataStatus) algorithms() string {
	var all []string
	for _, a := range s.Algorithms {
		text := a.Algorithm
		if a.TableSize > 0 {
			text += fmt.Sprintf(" %d", a.TableSize)
		}
		all = append(all, fmt.Sprintf("%s (%s)", text, counting(a.Services, "service")))
	}
	return orDash(strings.Join(all, ", "))
}

func (s affinityStatus) text() string {
	if s.Services == 0 {
		return "no service asks for it"
	}
	return fmt.Sprintf("%s, at most %s", counting(s.Services, "service"), time.Duration(s.Longest)*time.Second)
}

func (s gracefulStatus) text() string {
	if !s.Supported {
		return "off"
	}
	return "on, " + counting(s.Terminating, "backend") + " terminating"
}

func (s bypassStatus) text() string {
	if !s.On {
		return "off"
	}
	return fmt.Sprintf("on for %s; the connection table holds %d of theirs", s.Between, s.Tracked)
}

// counting is "1 service", "2 services".
func counting(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
