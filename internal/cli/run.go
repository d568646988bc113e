package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/daemon"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
)

// RunOptions are the flags of `plumb run`.
type RunOptions struct {
	Interval        time.Duration
	Once            bool
	Metrics         string // address to serve metrics on, "" for none
	Group           string // that may use the socket, "" for root alone
	AllowDisruption bool
	AllowDelete     bool
}

// Run keeps this machine what the files say until ctx ends.
func (o *Options) Run(ctx context.Context, opt RunOptions) error {
	if err := needRoot("run"); err != nil {
		return err
	}
	// After a boot most of this is waiting for the kernel, and it is needed before anything is done.
	first := sync.OnceValues(func() (*features.Set, error) { return o.features(ctx, "") })
	go first()
	var asked atomic.Bool
	node, err := o.daemonNode(ctx)
	if err != nil {
		return err
	}
	h, err := o.openHost(node)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := (&session{o: o, host: h}).here(); err != nil {
		return err
	}
	log := o.logger()
	notify, watchdog := daemon.Systemd(log)
	serving := &served{o: o, node: node, h: h}
	d := daemon.New(daemon.Options{
		Node: node, Dir: o.Dir, Tags: o.Tags, StateDir: o.StateDir, Host: h, Interval: opt.Interval, Log: log, Version: Version(),
		Features: func(ctx context.Context) (*features.Set, error) {
			if asked.CompareAndSwap(false, true) {
				return first()
			}
			return o.features(ctx, "")
		},
		Allowed: reconciler.Allowed{Disruption: opt.AllowDisruption, Delete: opt.AllowDelete},
		Notify:  notify, Watchdog: watchdog, Surroundings: serving.surroundings,
	})
	serving.Daemon = d
	if opt.Once {
		return outcome(d.Once(ctx))
	}
	d.Registry().MustRegister(serving)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended, err := serve(ctx, stop, serving, opt)
	if err != nil {
		return err
	}
	err = d.Run(ctx)
	stop()
	return errors.Join(err, ended.Wait())
}

// serve answers on the socket and, if asked to, on a TCP address, until ctx ends. Should one break, the daemon stops too: the
// service that started it starts it again.
func serve(ctx context.Context, stop func(), s *served, opt RunOptions) (*errgroup.Group, error) {
	socket, err := api.Listen(s.h.RunDir, opt.Group)
	if err != nil {
		return nil, err
	}
	all := map[net.Listener]http.Handler{socket: api.Handler(s)}
	if opt.Metrics != "" {
		l, err := net.Listen("tcp", opt.Metrics)
		if err != nil {
			socket.Close()
			return nil, fmt.Errorf("serve metrics: %w", err)
		}
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", s.Metrics())
		all[l] = mux
	}
	ended := new(errgroup.Group)
	for l, h := range all {
		ended.Go(func() error {
			defer stop()
			return api.Serve(ctx, l, h)
		})
	}
	return ended, nil
}

// outcome gives what one cycle left the exit code that an apply would have had.
func outcome(err error) error {
	left := new(daemon.Outcome)
	if !errors.As(err, &left) {
		return err
	}
	switch refused := exitOf(left.Refused); {
	case refused != nil:
		return refused
	case len(left.Conflicts) > 0:
		return &Exit{ExitConflict, left}
	}
	return left
}

// logger writes structured lines on standard error, as text or as JSON.
func (o *Options) logger() *slog.Logger {
	opt := &slog.HandlerOptions{Level: slog.LevelInfo}
	if o.Verbose {
		opt.Level = slog.LevelDebug
	}
	if o.JSON() {
		return slog.New(slog.NewJSONHandler(o.Err, opt))
	}
	return slog.New(slog.NewTextHandler(o.Err, opt))
}
