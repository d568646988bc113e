package watch

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Sum tells one state of a repository's files from another.
type Sum [sha256.Size]byte

// Limits of what is watched: a repository that is larger is no configuration, and its folders cost the kernel memory.
const (
	maxFolders = 5_000
	maxFiles   = 50_000
	maxLinks   = 40      // symbolic links in a row, as in the kernel
	maxHashed  = 1 << 20 // larger files that aren't CUE are told by their times and sizes
	maxCUE     = 32 << 20
)

// tick is more than the distance of the kernel's file times: what was written within it can be written again unseen.
const tick = 100 * time.Millisecond

// walker walks a repository, from the root of its CUE module down, and watches every folder on the way. Folders whose name
// begins with a dot (.git) are left out unless a symbolic link leads into them (..data). Files other than CUE count only
// where some CUE file embeds data: a log that is written in the repository is nobody's business.
type walker struct {
	dir string
	w   *fsnotify.Watcher

	mu      sync.Mutex
	watched map[string]*folder // by path
	hashes  map[string]hashed  // by path
	fresh   bool               // the last walk found folders that were not watched before
	writing bool               // the last walk found a file that is open for writing
	embeds  bool               // the last walk found a CUE file that embeds others
	err     error
}

// folder is one that is watched.
type folder struct {
	id    fileID
	all   bool            // every name in it counts
	names map[string]bool // else these, and of hidden ones these alone
	seen  bool
}

type fileID struct{ dev, ino uint64 }

// version is what changes whenever a file does, but for the coarseness of its times.
type version struct {
	fileID
	size         int64
	mtime, ctime syscall.Timespec
}

type hashed struct {
	version
	hash   Sum
	embeds bool
}

func newWalker(dir string, w *fsnotify.Watcher) *walker {
	return &walker{dir: dir, w: w, watched: map[string]*folder{}, hashes: map[string]hashed{}}
}

// concerns reports whether an event at a path may be of a file that counts.
func (w *walker) concerns(path string) bool {
	path = filepath.Clean(path) // what is in the root folder comes with two slashes
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := w.watched[path]; f != nil {
		// A folder itself came, went or moved. One of the same name and inode may take its place unwatched.
		_ = w.w.Remove(path)
		delete(w.watched, path)
		return true
	}
	f := w.watched[filepath.Dir(path)]
	if f == nil {
		return false
	}
	name := filepath.Base(path)
	switch {
	case f.names[name]:
		return true
	case !f.all || strings.HasPrefix(name, "."):
		return false
	case w.embeds || isCUE(name):
		return true
	}
	fi, err := os.Lstat(path) // a folder or a link may hold, or be, a CUE file
	return err == nil && !fi.Mode().IsRegular()
}

func isCUE(name string) bool { return strings.HasSuffix(name, ".cue") }

func (w *walker) found() bool    { w.mu.Lock(); defer w.mu.Unlock(); return w.fresh }
func (w *walker) trouble() error { w.mu.Lock(); defer w.mu.Unlock(); return w.err }

// busy reports whether somebody is in the middle of writing: a file is open, or git is at work.
func (w *walker) busy() bool {
	_, err := w.sum()
	return err == nil && w.atWork()
}

// atWork is the same as of the last walk.
func (w *walker) atWork() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writing || gitAtWork(w.dir)
}

// sum walks all of it.
func (w *walker) sum() (Sum, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fresh, w.writing, w.embeds, w.err = false, false, false, nil
	for _, f := range w.watched {
		f.seen, f.all, f.names = false, false, map[string]bool{}
	}
	v := visit{walker: w, others: map[string]string{}, been: map[fileID]bool{}, hashes: make(map[string]hashed, len(w.hashes))}
	if dir, fi := v.follow(w.dir, 0); fi == nil || !fi.IsDir() {
		v.line(".", "missing")
	} else {
		v.folder(v.moduleRoot(dir), ".")
	}
	if w.embeds {
		for called, path := range v.others {
			v.line(called, v.content(path))
		}
	}
	for path, f := range w.watched {
		if !f.seen {
			_ = w.w.Remove(path)
			delete(w.watched, path)
		}
	}
	w.hashes = v.hashes
	slices.Sort(v.lines)
	h := sha256.New()
	for _, l := range v.lines {
		io.WriteString(h, l)
	}
	return Sum(h.Sum(nil)), v.err
}

// visit is one walk.
type visit struct {
	*walker
	lines   []string
	others  map[string]string // files other than CUE: their paths by what they are called
	hashes  map[string]hashed
	been    map[fileID]bool
	folders int
	err     error
}

func (v *visit) line(path, what string) { v.lines = append(v.lines, path+"\x00"+what+"\n") }

// watch watches a folder for some names, or for all. It is called before the folder is read, so that nothing is missed.
func (v *visit) watch(dir string, names ...string) {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return
	}
	id := fileID{uint64(st.Dev), st.Ino}
	f := v.watched[dir]
	if f != nil && f.id != id {
		_ = v.w.Remove(dir)
		f = nil
	}
	if f == nil {
		if err := v.w.Add(dir); err != nil {
			v.walker.err = fmt.Errorf("watch %s: %w", dir, err)
			if errors.Is(err, syscall.ENOSPC) {
				v.walker.err = fmt.Errorf("watch %s: no inotify watch is left; raise fs.inotify.max_user_watches", dir)
			}
			return
		}
		f = &folder{id: id, names: map[string]bool{}}
		v.watched[dir] = f
		v.fresh = true
	}
	f.seen = true
	if len(names) == 0 {
		f.all = true
	}
	for _, n := range names {
		f.names[n] = true
	}
}

// follow finds what a path leads to, name by name, and watches each folder on the way for the name that it is left by: a
// link that is swapped, or a folder that is replaced, shows there and nowhere else. It returns nil for what isn't there.
func (v *visit) follow(path string, links int) (string, os.FileInfo) {
	at := "/"
	var fi os.FileInfo
	for name := range strings.SplitSeq(strings.Trim(filepath.Clean(path), "/"), "/") {
		v.watch(at, name)
		next := filepath.Join(at, name)
		var err error
		if fi, err = os.Lstat(next); err != nil {
			return "", nil
		}
		if fi.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(next)
			if err != nil || links == maxLinks {
				return "", nil
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(at, target)
			}
			links++
			if next, fi = v.follow(target, links); fi == nil {
				return "", nil
			}
		}
		at = next
	}
	if fi == nil { // the root folder
		fi, _ = os.Lstat(at)
	}
	return at, fi
}

// moduleRoot is the folder of the CUE module that dir belongs to, dir itself where there is none.
func (v *visit) moduleRoot(dir string) string {
	for d := dir; ; d = filepath.Dir(d) {
		v.watch(d, "cue.mod")
		if fi, err := os.Stat(filepath.Join(d, "cue.mod")); err == nil && fi.IsDir() {
			return d
		}
		if d == "/" {
			return dir
		}
	}
}

// folder walks one folder; as is how the path is called in the sum.
func (v *visit) folder(dir, as string) {
	v.folders++
	if v.folders > maxFolders || len(v.lines)+len(v.others) > maxFiles {
		v.err = fmt.Errorf("watch %s: more than %d folders or %d files: keep the configuration in a folder of its own", v.dir, maxFolders, maxFiles)
		return
	}
	v.watch(dir)
	if f := v.watched[dir]; f != nil {
		if v.been[f.id] {
			return // a link that leads back
		}
		v.been[f.id] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		v.line(as, err.Error())
		return
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		path, called := filepath.Join(dir, name), as+"/"+name
		if e.Type()&fs.ModeSymlink != 0 {
			if path, _ = v.follow(path, 0); path == "" {
				v.line(called, "dangling")
				continue
			}
		}
		if fi, err := os.Stat(path); err == nil && fi.IsDir() {
			v.folder(path, called)
			continue
		}
		if isCUE(name) {
			v.line(called, v.content(path))
		} else {
			v.others[called] = path
		}
	}
}

// content is what a file holds, in short.
func (v *visit) content(path string) string {
	// Without O_NONBLOCK, opening a FIFO waits for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() {
		return fi.Mode().String()
	}
	now := version{fileID{uint64(st.Dev), st.Ino}, st.Size, st.Mtim, st.Ctim}
	if st.Size > maxCUE || st.Size > maxHashed && !isCUE(path) {
		return fmt.Sprint(now)
	}
	if old, ok := v.walker.hashes[path]; ok && old.version == now {
		v.hashes[path] = old
		v.embeds = v.embeds || old.embeds
		return string(old.hash[:])
	}
	b, err := io.ReadAll(io.LimitReader(f, maxCUE))
	if err != nil {
		return err.Error()
	}
	h := hashed{now, sha256.Sum256(b), isCUE(path) && bytes.Contains(b, []byte("@embed"))}
	v.embeds = v.embeds || h.embeds
	if openForWriting(f) {
		v.writing = true
	} else if time.Since(time.Unix(st.Ctim.Unix())) > tick {
		v.hashes[path] = h
	}
	return string(h.hash[:])
}

// gitAtWork reports whether git holds the lock of the repository that dir is in: it does from before a checkout writes its
// first file until after the last.
func gitAtWork(dir string) bool {
	for d := dir; ; d = filepath.Dir(d) {
		git := filepath.Join(d, ".git")
		if fi, err := os.Lstat(git); err == nil {
			if !fi.IsDir() { // a work tree: the file names the folder
				b, err := os.ReadFile(git)
				to, ok := strings.CutPrefix(strings.TrimSpace(string(b)), "gitdir: ")
				if err != nil || !ok {
					return false
				}
				if git = to; !filepath.IsAbs(git) {
					git = filepath.Join(d, to)
				}
			}
			_, err := os.Lstat(filepath.Join(git, "index.lock"))
			return err == nil
		}
		if d == "/" {
			return false
		}
	}
}

// paths lists the folders that are watched, in order.
func (w *walker) paths() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.watched))
}
