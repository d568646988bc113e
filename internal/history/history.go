// Package history keeps the revisions of a node: what was applied, when, by whom. The newest one is the last good state.
//
//	history.go  revisions in files
//	commit.go   which commit of a git repository is checked out, and who asks
//
// What is kept is the evaluated configuration, not the state that was compiled from it. Compiling is pure and takes
// milliseconds, and a state is right only for the kernel and the plumb that it was compiled for: after an upgrade of
// either, the last good configuration is still good.
//
// A revision is a file of its own, written whole or not at all, and never changed afterwards.
package history

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

// Revision is one configuration that was applied to a node and verified, or the removal of everything.
type Revision struct {
	Revision int       `json:"revision"` // 1, 2, ...
	Time     time.Time `json:"time"`
	User     string    `json:"user"`   // who asked for it, "" where nobody can tell
	Commit   string    `json:"commit"` // of the git repository that it came from, "" where there is none
	Digest   string    `json:"digest"` // of Config
	// Summary counts the changes that it took.
	Summary   resource.Summary `json:"summary"`
	Destroyed bool             `json:"destroyed"`
	Of        int              `json:"of,omitempty"` // the revision that was applied again
	// Config is nil for a node that was destroyed.
	Config *schema.Config `json:"config,omitempty"`
}

// most is how many revisions of a node are kept.
const most = 50

// maxSize bounds what is read as a revision, in bytes.
const maxSize = 256 << 20

// suffix is the end of a revision's file name.
const suffix = ".json.gz"

// Dir is the folder of a node's revisions.
func Dir(stateDir, node string) string { return filepath.Join(stateDir, node, "revisions") }

// New is a revision of a configuration, or with nil of a removal, as of now. It gets its number when it is written.
func New(cfg *schema.Config, dir string, summary resource.Summary) (*Revision, error) {
	r := &Revision{Time: time.Now().UTC().Truncate(time.Second), User: User(), Summary: summary, Config: cfg, Destroyed: cfg == nil}
	if cfg == nil {
		return r, nil
	}
	r.Commit = Commit(dir)
	var err error
	r.Digest, err = Digest(cfg)
	return r, err
}

// Digest is the sha256 of a configuration in hex.
func Digest(cfg *schema.Config) (string, error) {
	b, err := json.Marshal(cfg)
	if err != nil {
		return "", fmt.Errorf("digest the configuration: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// Adds reports whether r says anything that the newest revision (nil for none) doesn't.
func (r *Revision) Adds(last *Revision) bool {
	if last == nil {
		return !r.Destroyed
	}
	return last.Digest != r.Digest || last.Destroyed != r.Destroyed
}

// Keep writes r unless the newest revision says the same. Revisions that can't be read don't keep it from that.
func Keep(stateDir, node string, r *Revision) error {
	if last, _ := Last(stateDir, node); !r.Adds(last) {
		return nil
	}
	return Write(stateDir, node, r)
}

// Write gives r the next number and keeps it, and drops the oldest ones beyond fifty. Who writes holds the node's lock.
func Write(stateDir, node string, r *Revision) error {
	numbers, err := list(stateDir, node)
	if err != nil {
		return err
	}
	r.Revision = 1
	if len(numbers) > 0 {
		r.Revision = numbers[len(numbers)-1] + 1
	}
	if err := write(Dir(stateDir, node), r); err != nil {
		return fmt.Errorf("write revision %d: %w", r.Revision, err)
	}
	for _, n := range numbers[:max(0, len(numbers)+1-most)] {
		if err := os.Remove(file(stateDir, node, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("drop an old revision: %w", err)
		}
	}
	return nil
}

func write(dir string, r *Revision) (err error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := errors.Join(json.NewEncoder(z).Encode(r), z.Close()); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-") // of 0600: a configuration isn't everybody's business
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b.Bytes())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, name(r.Revision))); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func name(n int) string { return fmt.Sprintf("%06d%s", n, suffix) }

func file(stateDir, node string, n int) string { return filepath.Join(Dir(stateDir, node), name(n)) }

// list returns the numbers of the revisions, the oldest first.
func list(stateDir, node string) ([]int, error) {
	entries, err := os.ReadDir(Dir(stateDir, node))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the revisions: %w", err)
	}
	var numbers []int
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), suffix)
		if n, err := strconv.Atoi(digits); ok && err == nil && n > 0 && e.Name() == name(n) {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// Get reads one revision. The error wraps fs.ErrNotExist where there is none of that number.
func Get(stateDir, node string, n int) (*Revision, error) {
	f, err := os.Open(file(stateDir, node, n))
	if err != nil {
		return nil, fmt.Errorf("read revision %d of node %s: %w", n, node, err)
	}
	defer f.Close()
	r, err := read(f)
	if err == nil && r.Revision != n {
		err = fmt.Errorf("it says that it is revision %d", r.Revision)
	}
	if err != nil {
		return nil, fmt.Errorf("read revision %d of node %s: %s: %w", n, node, f.Name(), err)
	}
	return r, nil
}

func read(f io.Reader) (*Revision, error) {
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	// Read to the end, where the checksum is: a decoder stops at the last bracket.
	b, err := io.ReadAll(io.LimitReader(z, maxSize))
	if err != nil {
		return nil, err
	}
	r := &Revision{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	if r.Config == nil {
		return r, nil
	}
	for name, c := range r.Config.Checks { // numbers of an interface come back as floats
		c.From.Port, c.To.Port = whole(c.From.Port), whole(c.To.Port)
		r.Config.Checks[name] = c
	}
	return r, nil
}

func whole(v any) any {
	if f, ok := v.(float64); ok {
		return int(f)
	}
	return v
}

// Last reads the newest revision: the last good state. It is nil where the node has none. Should a damaged disk have left
// nothing readable of it, it is the newest one that can be read, and the error says what is wrong with the others; where
// both are set, the caller may go on with the revision and show the error.
func Last(stateDir, node string) (*Revision, error) {
	numbers, err := list(stateDir, node)
	if err != nil {
		return nil, err
	}
	var damaged []error
	for _, n := range slices.Backward(numbers) {
		r, err := Get(stateDir, node, n)
		if err == nil {
			return r, errors.Join(damaged...)
		}
		damaged = append(damaged, err)
	}
	return nil, errors.Join(damaged...)
}

// List reads all revisions, the newest first, without their configurations. Those that can't be read are left out, and the
// error names them.
func List(stateDir, node string) ([]*Revision, error) {
	numbers, err := list(stateDir, node)
	if err != nil {
		return nil, err
	}
	var all []*Revision
	var damaged []error
	for _, n := range slices.Backward(numbers) {
		r, err := Get(stateDir, node, n)
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		r.Config = nil
		all = append(all, r)
	}
	return all, errors.Join(damaged...)
}

// Text is what a revision did, in words: "3 created, 1 updated".
func (r *Revision) Text() string {
	if r.Destroyed {
		return "destroyed"
	}
	var words []string
	for _, c := range []struct {
		n    int
		what string
	}{{r.Summary.Create, "created"}, {r.Summary.Update, "updated"}, {r.Summary.Replace, "replaced"}, {r.Summary.Delete, "deleted"}} {
		if c.n > 0 {
			words = append(words, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	return cmp.Or(strings.Join(words, ", "), "no changes")
}

// Newest is the number of the newest revision, 0 where the node has none. It reads no revision.
func Newest(stateDir, node string) (int, error) {
	numbers, err := list(stateDir, node)
	if err != nil || len(numbers) == 0 {
		return 0, err
	}
	return numbers[len(numbers)-1], nil
}
