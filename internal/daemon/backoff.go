package daemon

import (
	"maps"
	"slices"
	"time"

	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/reconciler/resource"
)

// How long an object that failed is left alone.
const (
	backoffFirst = time.Second
	backoffMost  = time.Minute
)

// backoff remembers the objects that fail. Each has a pause of its own, so that one that fails for ever costs little and
// keeps nothing else from being mended.
type backoff map[resource.ID]*failing

type failing struct {
	text  string
	tries int
	since time.Time
	next  time.Time
}

// failed notes a failure. It reports whether that is news: the first one, or another error than before.
func (b backoff) failed(id resource.ID, err error, now time.Time) (news bool) {
	f := b[id]
	if f == nil {
		f = &failing{since: now}
		b[id] = f
	}
	news = f.text != err.Error()
	f.text = err.Error()
	f.next = now.Add(min(backoffFirst<<min(f.tries, 10), backoffMost))
	f.tries++
	return news
}

// resting returns the objects that are not to be touched now.
func (b backoff) resting(now time.Time) map[resource.ID]bool {
	ids := map[resource.ID]bool{}
	for id, f := range b {
		if now.Before(f.next) {
			ids[id] = true
		}
	}
	return ids
}

// keep forgets all that no longer have to be changed, and returns them.
func (b backoff) keep(changes []resource.Change) (mended []resource.ID) {
	left := make(map[resource.ID]bool, len(changes))
	for _, c := range changes {
		left[c.ID] = true
	}
	for id := range b {
		if !left[id] {
			mended = append(mended, id)
			delete(b, id)
		}
	}
	slices.SortFunc(mended, resource.ID.Compare)
	return mended
}

// next is when the first object may be tried again; zero where none waits.
func (b backoff) next() (t time.Time) {
	for _, f := range b {
		if t.IsZero() || f.next.Before(t) {
			t = f.next
		}
	}
	return t
}

// status lists the failing objects in order.
func (b backoff) status() []api.Failing {
	list := []api.Failing{}
	for _, id := range slices.SortedFunc(maps.Keys(b), resource.ID.Compare) {
		f := b[id]
		list = append(list, api.Failing{ID: id, Error: f.text, Since: f.since, Tries: f.tries, Next: f.next})
	}
	return list
}
