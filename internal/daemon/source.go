package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/history"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/schema"
)

// evaluate reads the files if they have changed, and makes a candidate of them. Files that can't be used are told of in the
// status, and change nothing else.
func (d *Daemon) evaluate(ctx context.Context) {
	d.touched = false
	sum, err := d.files.Sum()
	if err == nil && d.read != nil && sum == *d.read && (d.held || d.saying != "") {
		return
	}
	if err == nil && d.held && d.read == nil && d.recallHeld(sum) {
		d.read = &sum // as they were when somebody applied something else
		return
	}
	began := time.Now()
	after, _ := history.Newest(d.StateDir, d.Node) // an error shows when somebody else's revision is looked for
	var c *version
	if err == nil {
		c, err = d.load(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	if !d.files.Still(sum) {
		d.touched = true // half of what was read may be old
		return
	}
	d.read = &sum
	d.metrics.compiled(time.Since(began), err)
	d.note(&d.ran.files, err)
	d.sourceIs(err)
	if err != nil {
		d.candidate, d.saying = nil, ""
		return
	}
	d.forgetHeld()
	d.backoff = backoff{}
	c.after = after
	d.candidate, d.saying = c, c.digest
	d.Log.Info("files read", "digest", c.digest[:12], "objects", len(c.compiled.State), "took", time.Since(began))
}

// load evaluates and compiles the files: in this process where that is safe, and nothing is wrong with them, else with the
// help of a guarded child, which also knows the places of mistakes.
func (d *Daemon) load(ctx context.Context) (*version, error) {
	machine := sync.OnceValues(func() (*features.Set, error) { return d.Features(ctx) })
	go machine() // it may have to wait for the kernel's lock of all links
	defer machine()
	if cfg := d.literals.Load(d.Dir, d.Tags); cfg != nil {
		if v, err := d.compile(cfg, "files", machine); err == nil {
			return v, nil
		}
	}
	src, err := compiler.Load(ctx, d.Dir, d.Tags)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	v, err := d.compile(src.Config, "files", machine)
	if err != nil {
		return nil, src.Locate(err)
	}
	return v, nil
}

func (d *Daemon) compile(cfg *schema.Config, from string, machine func() (*features.Set, error)) (*version, error) {
	v := &version{config: cfg, nodes: cfg.Nodes, from: from, since: time.Now().UTC()}
	var digest errgroup.Group
	digest.Go(func() (err error) {
		v.digest, err = history.Digest(cfg)
		return err
	})
	set, err := machine()
	if err == nil {
		v.machine, err = reconciler.DigestFeatures(set, cfg.Nodes[d.Node].Uplinks)
	}
	if err == nil {
		v.compiled, err = compiler.Compile(cfg, d.Node, set)
	}
	return v, cmp.Or(err, digest.Wait())
}

// sourceIs notes whether the files can be used.
func (d *Daemon) sourceIs(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.status.Source
	switch {
	case err == nil && old != nil:
		d.Log.Info("the files can be used again")
		d.status.Source = nil
	case err != nil && (old == nil || old.Error != err.Error()):
		d.status.Source = &api.Problem{Error: err.Error(), Since: time.Now().UTC()}
		if old != nil {
			d.status.Source.Since = old.Since
		}
		d.Log.Error("the files can't be used; what was in force stays", "err", err)
	}
}

// reconsider compiles anew what is in force where the machine has changed: "auto" may mean something else on it now.
func (d *Daemon) reconsider(ctx context.Context) {
	v := d.inForce
	if v == nil {
		return
	}
	now, err := d.machine(ctx, v.nodes)
	if err == nil && now == v.machine {
		return
	}
	if err == nil && v.from == "files" && !d.held {
		d.read = nil // they are evaluated again
		return
	}
	var again *version
	if err == nil {
		again, err = d.lastGood(ctx)
	}
	if d.tellError("what the machine can do isn't known", err); err == nil && again != nil {
		d.enforce(again)
	}
}

// machine is the digest of what the machine can do.
func (d *Daemon) machine(ctx context.Context, nodes map[string]schema.Node) (string, error) {
	set, err := d.Features(ctx)
	if err != nil {
		return "", err
	}
	return reconciler.DigestFeatures(set, nodes[d.Node].Uplinks)
}

// lastGood is the newest revision; nil where there is none.
func (d *Daemon) lastGood(ctx context.Context) (*version, error) {
	r, err := history.Last(d.StateDir, d.Node)
	if r == nil || r.Destroyed {
		return nil, err
	}
	if err != nil {
		d.Log.Error("a revision can't be read", "err", err)
	}
	v, err := d.compile(r.Config, fmt.Sprintf("revision %d", r.Revision), func() (*features.Set, error) { return d.Features(ctx) })
	if err != nil {
		return nil, fmt.Errorf("compile revision %d, the last good one: %w", r.Revision, err)
	}
	v.config, v.revision = nil, r.Revision
	return v, nil
}

// follow takes over what somebody else has applied: another revision than the daemon knows.
func (d *Daemon) follow(ctx context.Context) error {
	n, err := history.Newest(d.StateDir, d.Node)
	if err != nil || n == d.revision {
		return err
	}
	d.revision = n
	r, err := history.Get(d.StateDir, d.Node, n)
	if err != nil {
		return err
	}
	switch {
	case r.Destroyed:
		d.enforce(nil)
		d.candidate = nil
		d.hold()
		d.Log.Warn("the node was destroyed: nothing is done until something is applied or the files change", "revision", n)
	case d.candidate != nil && d.candidate.digest == r.Digest: // somebody applied the files
		d.candidate.revision = n
	case d.inForce != nil && d.inForce.digest == r.Digest:
		d.inForce.revision = n
	default:
		v, err := d.lastGood(ctx)
		if err != nil || v == nil {
			return errors.Join(err, fmt.Errorf("take over revision %d", n))
		}
		d.enforce(v)
		d.backoff = backoff{}
		switch {
		case r.Digest == d.saying: // the files again, after something else
			v.from = "files"
			d.forgetHeld()
		case d.candidate != nil && d.candidate.after >= n: // the files changed after that
		default:
			d.candidate = nil
			d.hold()
			d.Log.Warn("something other than the files was applied; it stays until they change", "revision", n)
		}
	}
	return nil
}

// keep writes a revision of what is in force, now that it is verified.
func (d *Daemon) keep() error {
	v := d.inForce
	if v.revision != 0 || v.config == nil {
		return nil
	}
	if d.last == nil || d.last.Revision != d.revision {
		if err := d.recall(); err != nil && d.last == nil {
			d.Log.Error("no revision can be read", "err", err)
		}
	}
	r, err := history.New(v.config, d.Dir, v.summary)
	if err != nil {
		return err
	}
	if r.Adds(d.last) {
		d.Host.Wrote("write a revision")
		if err := history.Write(d.StateDir, d.Node, r); err != nil {
			return err
		}
		d.Log.Info("kept as the last good state", "revision", r.Revision, "commit", r.Commit)
		r.Config, d.last = nil, r
	}
	v.revision, v.config, d.revision = d.last.Revision, nil, d.last.Revision
	return nil
}

// recall reads the newest revision that can be read.
func (d *Daemon) recall() error {
	r, err := history.Last(d.StateDir, d.Node)
	if d.last = r; r != nil {
		r.Config = nil // it is large
	}
	return err
}
