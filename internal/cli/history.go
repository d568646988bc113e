package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"text/tabwriter"
	"time"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/guard"
	"plumb.internal/plumb/internal/history"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// revision is what the session's configuration becomes in the history.
func (s *session) revision(summary resource.Summary) (*history.Revision, error) {
	r, err := history.New(s.config, s.o.Dir, summary)
	if err == nil && s.earlier != nil {
		r.Commit, r.Of = s.earlier.Commit, s.earlier.Revision
	}
	return r, err
}

// keep writes a revision, unless the newest one says the same.
func (s *session) keep(r *history.Revision) error {
	last, damaged := history.Last(s.o.StateDir, s.node)
	if damaged != nil {
		s.host.Warn("%v", damaged)
	}
	back, err := guard.LastReverted(s.host)
	if back != nil && (r.Adds(last) || r.Digest == back.Digest) {
		err = guard.Forget(s.host)
	}
	if err != nil || !r.Adds(last) {
		return err
	}
	s.host.Wrote("write a revision into %s", history.Dir(s.o.StateDir, s.node))
	return history.Keep(s.o.StateDir, s.node, r)
}

// revisions is what `plumb history -o json` writes.
type revisions struct {
	FormatVersion string              `json:"format_version"`
	Node          string              `json:"node"`
	Revisions     []*history.Revision `json:"revisions"`
}

// History prints what was applied to this machine, the newest first.
func (o *Options) History(ctx context.Context) error {
	node, err := o.nodeName(ctx)
	if err != nil {
		return err
	}
	all, damaged := history.List(o.StateDir, node)
	if o.JSON() {
		return errors.Join(o.writeJSON(revisions{"1", node, append([]*history.Revision{}, all...)}), damaged)
	}
	if len(all) == 0 && damaged == nil {
		_, err := fmt.Fprintf(o.Out, "nothing was applied to node %s yet\n", node)
		return err
	}
	w := tabwriter.NewWriter(o.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "REVISION\tTIME\tUSER\tCOMMIT\tSUMMARY")
	for _, r := range all {
		text := r.Text()
		if r.Of > 0 {
			text = fmt.Sprintf("revision %d again: %s", r.Of, text)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", r.Revision, r.Time.Local().Format(time.DateTime), orDash(r.User), orDash(short(r.Commit)), text)
	}
	return errors.Join(w.Flush(), o.writeReverted(node), damaged)
}

// writeReverted says what was taken back last, if nothing was applied since.
func (o *Options) writeReverted(node string) error {
	back, err := guard.LastReverted(&host.Host{Options: host.Options{RunDir: filepath.Join(o.RunDir, node)}})
	if back == nil || err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.Out, "\ntaken back at %s: %s\n", back.Time.Local().Format(time.DateTime), back.Why)
	return err
}

// short is as much of a commit as people read.
func short(commit string) string { return commit[:min(12, len(commit))] }

// Rollback applies an earlier revision again; 0 is the one before the present one.
func (o *Options) Rollback(ctx context.Context, number int, opt ApplyOptions) error {
	s, err := o.beginRevision(ctx, number)
	if err != nil {
		return err
	}
	defer s.close()
	if !o.JSON() {
		fmt.Fprintf(o.Out, "revision %d of %s; the files say otherwise until they are changed, and the next apply goes by them\n\n",
			s.earlier.Revision, s.earlier.Time.Local().Format(time.DateTime))
	}
	return s.apply(ctx, opt, nil)
}

// beginRevision compiles a revision and opens the host.
func (o *Options) beginRevision(ctx context.Context, number int) (s *session, err error) {
	if err := needRoot("rollback"); err != nil {
		return nil, err
	}
	s = &session{o: o}
	defer func() {
		if err != nil {
			s.close()
			s = nil
		}
	}()
	if s.node, err = o.nodeName(ctx); err != nil {
		return s, err
	}
	if s.earlier, err = o.earlier(s.node, number); err != nil {
		return s, err
	}
	s.config = s.earlier.Config
	if s.set, err = o.features(ctx, ""); err != nil {
		return s, err
	}
	if s.compiled, err = compiler.Compile(s.config, s.node, s.set); err != nil {
		return s, fmt.Errorf("compile revision %d: %w", s.earlier.Revision, err)
	}
	if s.host, err = o.openHost(s.node); err == nil {
		err = s.here()
	}
	return s, err
}

// earlier reads a revision by its number, or the last one that says something else than the newest.
func (o *Options) earlier(node string, number int) (*history.Revision, error) {
	if number > 0 {
		r, err := history.Get(o.StateDir, node, number)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("node %s has no revision %d (see plumb history)", node, number)
		case err == nil && r.Destroyed:
			return nil, fmt.Errorf("revision %d removed everything: plumb destroy does that again", number)
		}
		return r, err
	}
	all, damaged := history.List(o.StateDir, node)
	for _, r := range all {
		if !r.Destroyed && r.Digest != all[0].Digest {
			return history.Get(o.StateDir, node, r.Revision)
		}
	}
	if damaged != nil {
		return nil, damaged
	}
	return nil, fmt.Errorf("node %s has no earlier revision (see plumb history)", node)
}
