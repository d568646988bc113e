package cli

import (
	"context"
	"errors"
	"log/slog"
	"time"

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
	d := daemon.New(daemon.Options{
		Node: node, Dir: o.Dir, Tags: o.Tags, StateDir: o.StateDir, Host: h, Interval: opt.Interval, Log: log, Version: Version(),
		Features: func(ctx context.Context) (*features.Set, error) { return o.features(ctx, "") },
		Allowed:  reconciler.Allowed{Disruption: opt.AllowDisruption, Delete: opt.AllowDelete},
		Notify:   notify, Watchdog: watchdog,
	})
	if opt.Once {
		return outcome(d.Once(ctx))
	}
	return d.Run(ctx)
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
