package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/history"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/schema"
)

// session is one command at work on a node: what the files say, what the machine can do, and the machine. For destroy
// there are no files.
type session struct {
	o        *Options
	node     string
	source   *compiler.Source // nil for an earlier revision
	config   *schema.Config
	earlier  *history.Revision // that is applied again, in the place of the files
	set      *features.Set
	compiled *compiler.Compiled
	host     *host.Host    // nil for plan --features
	checking time.Duration // that checks took before an apply
	unlock   func()        // while it has the lock; may be called twice
}

// openHost opens the node of this machine.
func (o *Options) openHost(node string) (*host.Host, error) {
	if strings.ContainsAny(node, "/\x00") || node == "." || node == ".." {
		return nil, fmt.Errorf("%q can't be the name of a node", node)
	}
	bpffs, cgroup := cmp.Or(o.BPFFS, host.BPFFSMount), o.Cgroup
	var err error
	if cgroup == "" {
		if cgroup, err = host.MountOr("cgroup2", ""); err != nil {
			return nil, err
		}
	}
	h, err := host.Open(host.Options{
		Node:   node,
		RunDir: filepath.Join(o.RunDir, node),
		BPFFS:  filepath.Join(bpffs, "plumb", host.BPFFileName(node)),
		Cgroup: cgroup,
	})
	if err != nil {
		return nil, fmt.Errorf("open this host: %w", err)
	}
	return h, nil
}

// begin loads and compiles the repository and opens the host; with a features file it compiles for that machine and
// reaches no host.
func (o *Options) begin(ctx context.Context, command, featuresFile string) (s *session, err error) {
	if featuresFile == "" {
		if err := needRoot(command); err != nil {
			return nil, err
		}
	}
	s = &session{o: o}
	defer func() {
		if err != nil {
			s.close()
			s = nil
		}
	}()
	if s.source, err = o.Load(ctx); err != nil {
		return s, err
	}
	s.config = s.source.Config
	if s.node, err = o.SelectNode(s.config); err != nil {
		return s, err
	}
	if s.set, err = o.features(ctx, featuresFile); err != nil {
		return s, err
	}
	if s.compiled, err = compile(s.source, s.node, s.set); err != nil {
		return s, err
	}
	if featuresFile == "" {
		if s.host, err = o.openHost(s.node); err == nil {
			err = s.here()
		}
	}
	return s, err
}

// here refuses to work on a node that is at work in another network namespace: nothing of it would be found here.
func (s *session) here() error {
	err := s.host.Elsewhere()
	if errors.Is(err, host.ErrElsewhere) {
		return &Exit{ExitConflict, err}
	}
	return err
}

func (s *session) close() {
	s.source.Close()
	if s.host != nil {
		s.host.Close()
	}
}

// plan observes and says what is to be done.
func (s *session) plan(ctx context.Context) (*resource.Plan, *reconciler.Observed, error) {
	observed := &reconciler.Observed{Owned: resource.State{}}
	if s.host != nil {
		var err error
		if observed, err = reconciler.Observe(ctx, s.host, s.compiled.State); err != nil {
			return nil, nil, err
		}
		s.keepHealth(observed.Owned) // what is down isn't as the files want it, so it is among these
	}
	p, err := reconciler.Diff(s.compiled.State, observed)
	if err != nil {
		return nil, nil, err
	}
	p.Node, p.Kernel, p.Choices = s.node, s.set.Kernel, s.compiled.Choices
	p.Warnings = append(append([]string{}, s.compiled.Warnings...), p.Warnings...)
	if s.host != nil {
		p.Warnings = append(p.Warnings, s.host.Warnings()...)
		p.Warnings = append(p.Warnings, s.surroundings(ctx)...)
		p.Warnings = append(p.Warnings, s.unprobed()...)
	}
	return p, observed, nil
}

// surroundings asks what else on this machine would stop the pods.
func (s *session) surroundings(ctx context.Context) []string {
	node := s.config.Nodes[s.node]
	var prefixes []netip.Prefix
	for _, text := range node.PodCIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	var bridges []string
	for _, id := range s.compiled.State.IDs() {
		if l, ok := s.compiled.State[id].(link.Link); ok && l.Type == link.Bridge {
			bridges = append(bridges, l.Name)
		}
	}
	warnings := s.host.Surroundings(ctx, prefixes, node.Uplinks, bridges...)
	if s.compiled.Straight {
		warnings = append(warnings, s.host.Bypassed(s.compiled.Beyond)...)
	}
	if s.compiled.Untracked {
		warnings = append(warnings, s.host.Untracked()...)
	}
	return warnings
}

// basis is what the plan follows from.
func (s *session) basis(observed *reconciler.Observed) (reconciler.Basis, error) {
	b := reconciler.Basis{Node: s.node, Observed: observed}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return b, fmt.Errorf("read boot id: %w", err)
	}
	b.BootID = strings.TrimSpace(string(boot))
	if b.Kernel, err = kernelRelease(); err != nil {
		return b, err
	}
	if s.source == nil {
		return b, nil
	}
	b.Config = s.source.Digest
	b.Features, err = reconciler.DigestFeatures(s.set, s.source.Config.Nodes[s.node].Uplinks)
	return b, err
}

// destroyPlan says what removing everything would do; the session has no files.
func (s *session) destroyPlan(ctx context.Context) (*resource.Plan, *reconciler.Observed, error) {
	p, observed, err := reconciler.PlanDestroy(ctx, s.host)
	if err != nil {
		return nil, nil, err
	}
	p.Node = s.node
	p.Kernel, err = kernelRelease()
	p.Warnings = append(p.Warnings, s.host.Warnings()...)
	return p, observed, err
}

// beginDestroy opens the host without any files.
func (o *Options) beginDestroy(ctx context.Context, command string) (*session, error) {
	if err := needRoot(command); err != nil {
		return nil, err
	}
	node, err := o.nodeName(ctx)
	if err != nil {
		return nil, err
	}
	h, err := o.openHost(node)
	if err != nil {
		return nil, err
	}
	s := &session{o: o, node: node, host: h}
	if err := s.here(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func kernelRelease() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "", fmt.Errorf("read kernel release: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// write prints a plan.
func (o *Options) writePlan(p *resource.Plan) error {
	if o.JSON() {
		return p.WriteJSON(o.Out)
	}
	return p.WriteText(o.Out, resource.TextOptions{Color: o.color(o.Out), Width: o.width(o.Out)})
}

// exitOf gives the errors of the reconciler their exit codes.
func exitOf(err error) error {
	var (
		conflict *reconciler.ConflictError
		cuts     *reconciler.DisruptionError
		deletes  *reconciler.DeletionError
		stale    *reconciler.StalePlanError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &conflict):
		return &Exit{ExitConflict, errors.New("somebody else's objects are in the way: nothing was touched")}
	case errors.As(err, &cuts), errors.As(err, &deletes), errors.As(err, &stale):
		return &Exit{ExitRefused, err}
	}
	return err
}

// removeFolder removes a folder if nothing is in it.
func removeFolder(path string) error {
	err := os.Remove(path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if entries, readErr := os.ReadDir(path); readErr == nil && len(entries) > 0 {
		return nil
	}
	return fmt.Errorf("remove folder: %w", err)
}
