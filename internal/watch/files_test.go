package watch

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"plumb.internal/plumb/internal/kindtest"
)

// repo is a repository that is watched.
type repo struct {
	*testing.T
	dir  string // of the test
	f    *Files
	last Sum
}

// watchRepo makes files, NAME=TEXT, below a folder of the test, and watches the folder dir in it.
func watchRepo(t *testing.T, dir string, files ...string) *repo {
	t.Helper()
	r := &repo{T: t, dir: t.TempDir()}
	for _, f := range files {
		r.write(f)
	}
	var err error
	if r.f, err = NewFiles(t.Context(), filepath.Join(r.dir, dir)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.f.Close)
	r.last = r.sum()
	return r
}

func (r *repo) path(name string) string { return filepath.Join(r.dir, name) }

func (r *repo) write(nameText string) {
	r.Helper()
	name, text, _ := strings.Cut(nameText, "=")
	r.must(os.MkdirAll(filepath.Dir(r.path(name)), 0o755))
	r.must(os.WriteFile(r.path(name), []byte(text), 0o644))
}

func (r *repo) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *repo) sum() Sum {
	r.Helper()
	s, err := r.f.Sum()
	r.must(err)
	r.must(r.f.Trouble())
	return s
}

// changes waits until the watcher has spoken up and the sum is another than before.
func (r *repo) changes() {
	r.Helper()
	end := time.After(10 * time.Second)
	for {
		select {
		case <-r.f.C:
			if s := r.sum(); s != r.last {
				r.last = s
				return
			}
		case <-end:
			r.Fatalf("the change was not noticed; watched are %v", r.f.walk.paths())
		}
	}
}

func (r *repo) link(target, name string) {
	r.Helper()
	tmp := r.path(name) + "-tmp"
	r.must(os.Symlink(target, tmp))
	r.must(os.Rename(tmp, r.path(name)))
}

func TestFilesNotices(t *testing.T) {
	for name, c := range map[string]struct {
		dir    string
		files  []string
		change func(r *repo)
	}{
		"written in place": {"r", []string{"r/a.cue=1"}, func(r *repo) { r.write("r/a.cue=2") }},
		"same size":        {"r", []string{"r/a.cue=1", "r/b.cue=1"}, func(r *repo) { r.write("r/b.cue=2") }},
		"renamed over": {"r", []string{"r/a.cue=1"}, func(r *repo) {
			r.write("r/.a.cue.swp=2")
			r.must(os.Rename(r.path("r/.a.cue.swp"), r.path("r/a.cue")))
		}},
		"another file":   {"r", []string{"r/a.cue=1"}, func(r *repo) { r.write("r/b.cue=1") }},
		"removed":        {"r", []string{"r/a.cue=1", "r/b.cue=1"}, func(r *repo) { r.must(os.Remove(r.path("r/b.cue"))) }},
		"new folder":     {"r", []string{"r/a.cue=1"}, func(r *repo) { r.write("r/x/y/z/b.cue=1") }},
		"embedded data":  {"r", []string{"r/a.cue=@embed(file=d.json)", "r/d.json=1"}, func(r *repo) { r.write("r/d.json=2") }},
		"module above":   {"m/r", []string{"m/cue.mod/module.cue=1", "m/lib/l.cue=1", "m/r/a.cue=1"}, func(r *repo) { r.write("m/lib/l.cue=2") }},
		"folder missing": {"r/s", nil, func(r *repo) { r.write("r/s/a.cue=1") }},
		"folder replaced": {"r", []string{"r/a.cue=1", "new/a.cue=2"}, func(r *repo) {
			r.must(os.Rename(r.path("r"), r.path("old")))
			r.must(os.Rename(r.path("new"), r.path("r")))
		}},
		"file made a folder": {"r", []string{"r/a.cue=1"}, func(r *repo) { r.must(os.Remove(r.path("r/a.cue"))); r.must(os.Mkdir(r.path("r/a.cue"), 0o755)) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := watchRepo(t, c.dir, c.files...)
			c.change(r)
			r.changes()
		})
	}
}

func TestFilesFollowsLinks(t *testing.T) {
	t.Run("target written", func(t *testing.T) {
		r := watchRepo(t, "r", "r/a.cue=1", "far/b.cue=1", "far/c.cue=1")
		r.link("../far/b.cue", "r/b.cue")
		r.changes()
		r.write("far/b.cue=2")
		r.changes()
		r.write("far/.d=1") // concerns nobody
		r.link("../far/c.cue", "r/b.cue")
		r.changes()
	})
	t.Run("folder is a link", func(t *testing.T) {
		r := watchRepo(t, "cur", "v1/a.cue=1", "v2/a.cue=2")
		r.link("v1", "cur")
		r.changes()
		r.link("v2", "cur")
		r.changes()
		r.write("v2/a.cue=3")
		r.changes()
	})
	t.Run("as configmaps are mounted", func(t *testing.T) {
		r := watchRepo(t, "r", "r/..1/a.cue=1", "r/..2/a.cue=2")
		r.link("..1", "r/..data")
		r.link("..data/a.cue", "r/a.cue")
		r.changes()
		r.link("..2", "r/..data")
		r.must(os.RemoveAll(r.path("r/..1")))
		r.changes()
		r.write("r/..2/a.cue=3")
		r.changes()
	})
	t.Run("in a circle", func(t *testing.T) {
		r := watchRepo(t, "r", "r/a.cue=1")
		r.link(".", "r/self")
		r.link("loop", "r/loop")
		r.changes()
		r.write("r/a.cue=2")
		r.changes()
	})
}

func TestFilesVanishAndReturn(t *testing.T) {
	r := watchRepo(t, "top/r", "top/r/a.cue=1", "top/r/sub/b.cue=1")
	before := r.last
	for range 3 {
		r.must(os.RemoveAll(r.path("top")))
		r.changes()
		r.write("top/r/a.cue=1")
		r.changes()
		r.write("top/r/sub/b.cue=1")
		r.changes()
		if r.last != before {
			t.Fatal("the same files have another sum")
		}
	}
}

// TestFilesStorm writes many files as a checkout does: the watcher speaks up once it is over, not for each.
func TestFilesStorm(t *testing.T) {
	var files []string
	for i := range 300 {
		files = append(files, fmt.Sprintf("r/d%d/f%d.cue=1", i%10, i))
	}
	r := watchRepo(t, "r", append(files, "r/.git/HEAD=x")...)
	r.write("r/.git/index.lock=") // git holds it from the first file to the last
	for _, f := range files {
		r.write(f + "2")
	}
	select {
	case <-r.f.C:
		t.Fatal("the watcher spoke up in the middle of a checkout")
	case <-time.After(3 * busyMost):
	}
	r.must(os.Remove(r.path("r/.git/index.lock")))
	r.changes()
	end := r.sum()
	if end != r.last {
		t.Fatal("the files were read before the checkout was over")
	}
}

// TestFilesOther: a file that isn't part of the configuration may be open and written as long as somebody likes.
func TestFilesOther(t *testing.T) {
	r := watchRepo(t, "r", "r/a.cue=1", "r/log=1")
	f, err := os.Create(r.path("r/log"))
	r.must(err)
	defer f.Close()
	if r.f.walk.concerns(f.Name()) || r.sum() != r.last {
		t.Error("the log counts")
	}
	r.write("r/a.cue=2")
	r.changes()
	if r.f.walk.busy() {
		t.Error("the log is waited for")
	}
}

func TestFilesWaitsForWriter(t *testing.T) {
	r := watchRepo(t, "r", "r/a.cue=1")
	f, err := os.Create(r.path("r/a.cue"))
	r.must(err)
	if !openForWriting(mustOpen(t, f.Name())) {
		kindtest.Lacks(t, "this file system gives no leases")
	}
	_, err = f.WriteString("half")
	r.must(err)
	select {
	case <-r.f.C:
		t.Fatal("the watcher spoke up while the file was open for writing")
	case <-time.After(3 * busyMost):
	}
	_, err = f.WriteString(" and half")
	r.must(err)
	r.must(f.Close())
	r.changes()
}

// TestFilesStill: what was read counts if the files are the same afterwards, and nobody is writing.
func TestFilesStill(t *testing.T) {
	r := watchRepo(t, "r", "r/a.cue=1", "r/b.cue=1")
	if !r.f.Still(r.last) {
		t.Error("files that nobody touches are different")
	}
	r.write("r/a.cue=2")
	if r.f.Still(r.last) {
		t.Error("a changed file is the same")
	}
	r.changes()
	if !r.f.Still(r.last) {
		t.Error("after the change the files are still different")
	}
	f, err := os.Create(r.path("r/b.cue"))
	r.must(err)
	if !openForWriting(mustOpen(t, f.Name())) {
		kindtest.Lacks(t, "this file system gives no leases")
	}
	if half := r.sum(); r.f.Still(half) {
		t.Error("a file that is being written is complete")
	}
	r.must(f.Close())
	r.changes()
	if !r.f.Still(r.last) {
		t.Error("the file is closed, and not yet complete")
	}
}

func mustOpen(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestFilesSumOfContent: what was only touched is the same, and folders that nobody names are let go.
func TestFilesSumOfContent(t *testing.T) {
	r := watchRepo(t, "r", "r/a.cue=1", "r/sub/b.cue=1")
	now := time.Now()
	r.must(os.Chtimes(r.path("r/a.cue"), now, now))
	r.write("r/a.cue=1")
	if r.sum() != r.last {
		t.Error("the same content has another sum")
	}
	r.must(os.RemoveAll(r.path("r/sub")))
	r.changes()
	if slices.Contains(r.f.walk.paths(), r.path("r/sub")) {
		t.Error("a folder that is gone is still watched")
	}
}
