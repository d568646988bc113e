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
		Notify:  notify, Watchdog: watchdog, Surroundings: serving.surroundings, Reach: serving.reach,
	})
	serving.Daemon = d
	if opt.Once {
		return outcome(d.Once(ctx))
	}
	d.Registry().MustRegister(serving)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	serving.group, serving.metrics = opt.Group, opt.Metrics
	if err := serving.open(ctx, stop); err != nil {
		return err
	}
	err = d.Run(ctx)
	stop()
	return errors.Join(err, serving.ended.Wait())
}

// open answers on the socket and, if asked to, on a TCP address, until ctx ends. Should one break, the daemon stops too: the
// service that started it starts it again.
func (s *served) open(ctx context.Context, stop func()) error {
	s.answer = func(l net.Listener, h http.Handler) {
		s.ended.Go(func() error {
			err := api.Serve(ctx, l, h)
			if errors.Is(err, net.ErrClosed) {
				return nil // another one takes its place
			}
			stop()
			return err
		})
	}
	socket, err := api.Listen(s.h.RunDir, s.group)
	if err != nil {
		return err
	}
	if s.metrics != "" {
		l, err := net.Listen("tcp", s.metrics)
		if err != nil {
			socket.Close()
			return fmt.Errorf("serve metrics: %w", err)
		}
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", s.Metrics())
		s.answer(l, mux)
	}
	s.socket = socket
	s.answer(socket, api.Handler(s))
	return nil
}

// reach opens the socket again where it is gone with the run folder. Another daemon may have come meanwhile: it is the error.
func (s *served) reach() error {
	if api.Open(s.h.RunDir) {
		return nil
	}
	s.socket.Close()
	socket, err := api.Listen(s.h.RunDir, s.group)
	if err != nil {
		return err
	}
	s.socket = socket
	s.answer(socket, api.Handler(s))
	return nil
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
