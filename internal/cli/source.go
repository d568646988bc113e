package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/schema"
)

// Load evaluates the repository. The caller closes the source.
func (o *Options) Load(ctx context.Context) (*compiler.Source, error) {
	return compiler.Load(ctx, o.Dir, o.Tags)
}

// SelectNode says which node of the configuration the command is about.
func (o *Options) SelectNode(cfg *schema.Config) (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("read host name: %w", err)
	}
	return compiler.SelectNode(cfg, o.Node, host)
}

// nodeName is the node of this machine for commands that work on what is there, whatever the files say: a repository that
// is broken or gone must not keep anybody from looking into a pod or removing everything. It is --node, else what the
// files say, else the only node that has a folder on this machine.
func (o *Options) nodeName(ctx context.Context) (string, error) {
	if o.Node != "" {
		return o.Node, nil
	}
	src, err := o.Load(ctx)
	if err == nil {
		defer src.Close()
		return o.SelectNode(src.Config)
	}
	entries, readErr := os.ReadDir(o.RunDir)
	if readErr != nil && !errors.Is(readErr, os.ErrNotExist) {
		return "", fmt.Errorf("list %s: %w", o.RunDir, readErr)
	}
	var nodes []string
	for _, e := range entries {
		if e.IsDir() {
			nodes = append(nodes, e.Name())
		}
	}
	if len(nodes) == 1 {
		return nodes[0], nil
	}
	return "", fmt.Errorf("%w\n(with --node the files are not needed)", err)
}

// featuresFile is where the answers of this machine's kernel are kept.
func (o *Options) featuresFile() string { return filepath.Join(o.RunDir, "features.json") }

// features asks what this machine can do, or reads it from file.
func (o *Options) features(ctx context.Context, file string) (*features.Set, error) {
	if file != "" {
		return features.ReadFile(file)
	}
	return features.Cached(ctx, o.featuresFile(), false)
}

// compile compiles a node's slice; mistakes have their positions.
func compile(src *compiler.Source, node string, set *features.Set) (*compiler.Compiled, error) {
	c, err := compiler.Compile(src.Config, node, set)
	if err != nil {
		return nil, src.Locate(err)
	}
	return c, nil
}

// daemonNode is the node of this machine for the daemon, which has to start without any file that can be used. Where the
// host's own name has a history no file is read at all; else, where the files don't say, it is the node that has one.
func (o *Options) daemonNode(ctx context.Context) (string, error) {
	host, _ := os.Hostname()
	if o.Node == "" {
		if _, err := os.Stat(filepath.Join(o.StateDir, host)); err == nil && host != "" {
			return host, nil
		}
		if cfg := new(compiler.Literals).Load(o.Dir, o.Tags); cfg != nil {
			if node, err := o.SelectNode(cfg); err == nil {
				return node, nil
			}
		}
	}
	node, err := o.nodeName(ctx)
	if err == nil {
		return node, nil
	}
	entries, _ := os.ReadDir(o.StateDir)
	for _, e := range entries {
		if e.Name() == host || len(entries) == 1 {
			return e.Name(), nil
		}
	}
	return "", err
}
