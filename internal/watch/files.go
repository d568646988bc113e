package watch

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

// How long files must be left alone before they are read. Most writers are done with the first event, so it is short; a
// checkout, or a file that is still open for writing, is waited for as long as it goes on, within limits.
const (
	quiet     = 4 * time.Millisecond
	busyMost  = 20 * time.Millisecond // between two looks at whether it does; the first come sooner
	busyLimit = 5 * time.Second       // whoever writes for longer isn't waited for
)

// Files watches the repository that a folder belongs to. Editors that write by rename, checkouts of many files, symbolic
// links that are swapped, and folders that go and come back are all the same to it: it watches the folders that are there,
// reads them anew after each event, and speaks up once things are quiet.
type Files struct {
	// C says that the files may have changed, and that nobody is writing any more. It never blocks the watcher.
	C <-chan struct{}

	dir   string
	w     *fsnotify.Watcher
	walk  *walker
	again chan struct{}
	tired atomic.Bool // of waiting for those who are writing
	done  chan struct{}
}

// NewFiles begins to watch. The folder need not exist yet.
func NewFiles(ctx context.Context, dir string) (*Files, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch files: %w (is fs.inotify.max_user_instances reached?)", err)
	}
	c := make(chan struct{}, 1)
	f := &Files{C: c, dir: dir, w: w, walk: newWalker(dir, w), again: make(chan struct{}, 1), done: make(chan struct{})}
	if _, err := f.walk.sum(); err != nil {
		w.Close()
		return nil, err
	}
	go f.run(ctx, c)
	return f, nil
}

// Close ends the watching.
func (f *Files) Close() {
	f.w.Close()
	<-f.done
}

// Sum is the state of the files as they are now: the same content has the same sum. It reads only what has been touched
// since the last time.
func (f *Files) Sum() (Sum, error) { return f.walk.sum() }

// Still reports whether the files are as they were at a Sum, and nobody is writing: what was read in between was read in one
// piece. If not, C speaks up once they can be read.
func (f *Files) Still(sum Sum) bool {
	if now, err := f.walk.sum(); err == nil && (now != sum || f.walk.atWork() && !f.tired.Load()) {
		select {
		case f.again <- struct{}{}:
		default:
		}
		return false
	}
	return true
}

// Trouble says what of the repository can't be watched, nil where everything can.
func (f *Files) Trouble() error { return f.walk.trouble() }

func (f *Files) run(ctx context.Context, changed chan<- struct{}) {
	defer close(f.done)
	var (
		timer   = time.NewTimer(time.Hour)
		waiting bool
		first   time.Time // of the events that are waited for
		pause   time.Duration
	)
	timer.Stop()
	defer timer.Stop()
	touched := func() { // quiet may never come
		if waiting && time.Since(first) > busyLimit {
			return
		}
		if !waiting {
			waiting, first, pause = true, time.Now(), quiet/4
		}
		timer.Reset(quiet)
	}
	for {
		select {
		case <-ctx.Done():
			f.w.Close()
			return
		case e, ok := <-f.w.Events:
			if !ok {
				return
			}
			if f.walk.concerns(e.Name) {
				touched()
			}
		case <-f.again:
			touched()
		case _, ok := <-f.w.Errors: // an overrun: events are lost
			if !ok {
				return
			}
			touched()
		case <-timer.C:
			if !waiting {
				continue
			}
			busy := f.walk.busy()
			if busy && time.Since(first) < busyLimit {
				timer.Reset(pause)
				pause = min(2*pause, busyMost)
				continue
			}
			f.tired.Store(busy)
			if waiting = false; f.walk.found() { // new folders may hold files already: look once more
				touched()
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
}
