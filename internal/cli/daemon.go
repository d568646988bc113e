package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/daemon"
	"plumb.internal/plumb/internal/guard"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

// daemon is a client of the daemon that runs for the node; nil where none does.
func (o *Options) daemon(ctx context.Context) *api.Client {
	node, err := o.nodeName(ctx)
	if err != nil {
		return nil
	}
	return api.Dial(filepath.Join(o.RunDir, node))
}

// look gets an answer from the daemon, which root's group may ask too, and else from a session of its own.
func (o *Options) look(ctx context.Context, what string, answer any, read func(s *session) error) error {
	if c := o.daemon(ctx); c != nil {
		return c.Get(ctx, what, answer)
	}
	what, _, _ = strings.Cut(what, "?")
	command := map[string]string{"status": "status", "services": "svc ls", "pods": "pod ls"}[what]
	s, err := o.begin(ctx, command, "")
	if err != nil {
		return err
	}
	defer s.close()
	return read(s)
}

// Suspend stops the daemon from changing anything, and Resume lets it go on.
func (o *Options) Suspend(ctx context.Context, reason string) error {
	return o.tellDaemon(ctx, "suspend", api.Suspend{Reason: reason})
}

// Resume ends a suspension.
func (o *Options) Resume(ctx context.Context) error { return o.tellDaemon(ctx, "resume", nil) }

func (o *Options) tellDaemon(ctx context.Context, what string, body any) error {
	c := o.daemon(ctx)
	if c == nil {
		return fmt.Errorf("%s: no daemon runs for this node (plumb run)", what)
	}
	s, err := c.Post(ctx, what, body)
	if err != nil {
		return err
	}
	if o.JSON() {
		return o.writeJSON(s)
	}
	_, err = fmt.Fprintln(o.Out, daemonLine(s))
	return err
}

// daemonLine is the state of a daemon on one line.
func daemonLine(s api.Status) string {
	line := "daemon: " + s.State
	if s.Reason != "" {
		first, _, _ := strings.Cut(s.Reason, "\n")
		line += ": " + first
	}
	return line
}

// writeDaemon prints what the daemon says of itself.
func (o *Options) writeDaemon(s *api.Status) {
	fmt.Fprintln(o.Out, daemonLine(*s))
	since := func(t time.Time) string { return t.Local().Format(time.DateTime) }
	if f := s.InForce; f != nil {
		from := f.From
		if f.Revision > 0 && !strings.HasPrefix(from, "revision") {
			from = fmt.Sprintf("revision %d of the files", f.Revision)
		}
		fmt.Fprintf(o.Out, "in force: %s, since %s\n", from, since(f.Since))
	}
	if s.Source != nil {
		fmt.Fprintf(o.Out, "the files can't be used since %s:\n%s\n", since(s.Source.Since), s.Source.Error)
	}
	if p := s.Pending; p != nil {
		fmt.Fprintf(o.Out, "a change of the files waits since %s: %s\n", since(p.Since), p.Reason)
		if len(p.Needs) > 0 {
			fmt.Fprintf(o.Out, "to make it: plumb apply %s\n", strings.Join(p.Needs, " "))
		}
	}
	for _, f := range s.Failing {
		fmt.Fprintf(o.Out, "failing since %s, %d tries: %s: %s\n", since(f.Since), f.Tries, f.ID, f.Error)
	}
	if len(s.Drift) > 0 {
		fmt.Fprintln(o.Out, "changes by others that were undone, the latest first:")
		for _, d := range s.Drift[:min(len(s.Drift), 5)] {
			by := ""
			if d.By != "" {
				by = " by " + d.By
			}
			fmt.Fprintf(o.Out, "  %s  %s %s: %s%s\n", since(d.Since), d.Action.Symbol(), d.ID, d.What, by)
		}
	}
	for _, w := range s.Warnings {
		fmt.Fprintln(o.Out, w)
	}
	fmt.Fprintln(o.Out)
	if o.Verbose && len(s.Controllers) > 0 {
		o.writeControllers(s.Controllers)
	}
}

// writeControllers prints how often each thing was done, and how it went.
func (o *Options) writeControllers(all []api.Controller) {
	w := tabwriter.NewWriter(o.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "CONTROLLER\tRUNS\tERRORS\tLAST SUCCESS\tLAST ERROR\tMESSAGE")
	ago := func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return max(0, time.Since(t)).Round(time.Second).String() + " ago"
	}
	for _, c := range all {
		message, _, _ := strings.Cut(c.Error, "\n")
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\n", c.Name, c.Runs, c.Errors, ago(c.Succeeded), ago(c.Failed), orDash(message))
	}
	fmt.Fprintln(w)
	w.Flush()
}

// served is the daemon as the API offers it.
type served struct {
	*daemon.Daemon
	o    *Options
	node string
	h    *host.Host

	group, metrics string // who may use the socket, and where else metrics are
	socket         net.Listener
	answer         func(net.Listener, http.Handler)
	ended          errgroup.Group
}

// Confirm implements api.Backend.
func (s *served) Confirm(ctx context.Context) error {
	h, err := host.Open(s.h.Options)
	if err != nil {
		return err
	}
	defer h.Close()
	return guard.Confirm(ctx, h)
}

// Metrics implements api.Backend.
func (s *served) Metrics() http.Handler {
	return promhttp.HandlerFor(s.Registry(), promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// session is one of what the daemon has in force, with handles of its own: the daemon's are in use.
func (s *served) session(ctx context.Context) (*session, error) {
	compiled, nodes := s.InForce()
	if compiled == nil {
		compiled = &compiler.Compiled{Node: s.node, State: resource.State{}}
	}
	mine := *compiled
	set, err := s.o.features(ctx, "")
	if err != nil {
		return nil, err
	}
	h, err := host.Open(s.h.Options)
	if err != nil {
		return nil, err
	}
	return &session{o: s.o, node: s.node, config: &schema.Config{Nodes: nodes}, set: set, compiled: &mine, host: h}, nil
}

// surroundings says what else on the machine would stop the pods.
func (s *served) surroundings(ctx context.Context) []string {
	one, err := s.session(ctx)
	if err != nil {
		return []string{"can't look for what is in the way of pods: " + err.Error()}
	}
	defer one.close()
	return one.surroundings(ctx)
}

// Look implements api.Backend.
func (s *served) Look(ctx context.Context, what string, verbose bool) (any, error) {
	one, err := s.session(ctx)
	if err != nil {
		return nil, err
	}
	defer one.close()
	switch what {
	case "services":
		return one.services(ctx)
	case "pods":
		return one.pods(ctx)
	}
	st, err := one.status(ctx, verbose)
	mine := s.Status()
	st.Daemon = &mine
	return st, err
}

// The data path's own numbers, read when Prometheus asks.
var (
	mapEntries  = prometheus.NewDesc("plumb_map_entries", "Entries that are used.", []string{"map"}, nil)
	mapCapacity = prometheus.NewDesc("plumb_map_capacity", "Entries that a map can have.", []string{"map"}, nil)
	mapBytes    = prometheus.NewDesc("plumb_map_bytes", "Memory of a map.", []string{"map"}, nil)
	packets     = prometheus.NewDesc("plumb_packets_total", "Packets by what became of them; what isn't passed on is dropped.", []string{"reason"}, nil)
)

// Describe implements prometheus.Collector.
func (s *served) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{mapEntries, mapCapacity, mapBytes, packets} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (s *served) Collect(c chan<- prometheus.Metric) {
	h, err := host.Open(s.h.Options)
	if err != nil {
		c <- prometheus.NewInvalidMetric(mapEntries, err)
		return
	}
	defer h.Close()
	maps, err := readMaps(h)
	if err != nil {
		c <- prometheus.NewInvalidMetric(mapEntries, err)
	}
	for _, m := range maps {
		c <- prometheus.MustNewConstMetric(mapEntries, prometheus.GaugeValue, float64(m.Used), m.Name)
		c <- prometheus.MustNewConstMetric(mapCapacity, prometheus.GaugeValue, float64(m.Entries), m.Name)
		c <- prometheus.MustNewConstMetric(mapBytes, prometheus.GaugeValue, float64(m.Bytes), m.Name)
	}
	counters, err := readCounters(h)
	if err != nil {
		c <- prometheus.NewInvalidMetric(packets, err)
	}
	for _, n := range counters {
		c <- prometheus.MustNewConstMetric(packets, prometheus.CounterValue, float64(n.Packets), n.Reason)
	}
}

// lockTime is how long a command waits for the daemon to finish what it is doing.
const lockTime = 20 * time.Second

// lockNode makes this command the only one at work on the node. The daemon works whenever it has to, and is waited for.
func lockNode(ctx context.Context, h *host.Host) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	for {
		unlock, err = reconciler.Lock(h)
		if locked := new(reconciler.LockedError); !errors.As(err, &locked) || !api.Running(h.RunDir) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}
