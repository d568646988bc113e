package reconciler_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/schema"
)

// exchanges are the writes of applies that go on one by one, but for those that bring new maps up to date.
type exchanges struct {
	mu     sync.Mutex
	writes []string
}

func (e *exchanges) note(_ int, what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !strings.HasPrefix(what, "copy what was learnt") {
		e.writes = append(e.writes, what)
	}
}

func (e *exchanges) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.writes)
}

// near reports whether programs on a pair were exchanged when so many writes had been announced, or were two writes later:
// the new map was brought up to date before, when the write ahead of it was made, or the one ahead of that.
func (e *exchanges) near(from, to int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.writes[max(0, from-1):min(to+2, len(e.writes))], func(what string) bool {
		return strings.HasPrefix(what, "attach from_pod") || strings.HasPrefix(what, "attach to_pod")
	})
}

// TestBegunMeanwhile makes connections all the time while maps get other sizes: those that began after a new map had its
// copy, and before its programs ran, go on too. One may break that was made between the last look into the old map and the
// exchange of a program on its way: the program that takes over doesn't know it, and nothing can hold it up meanwhile. The
// test knows when that was, and no other may break.
func TestBegunMeanwhile(t *testing.T) {
	if testing.Short() {
		t.Skip("on a slow machine that moment is long")
	}
	o := kindtest.Options(t)
	sizes := [][]func(*schema.Config){{}, {roomy}}
	if err := converge(t, o, compileAll(t, streamed("packet"))); err != nil {
		t.Fatal(err)
	}
	tr := &traffic{t: t, h: kindtest.Open(t, o), stop: make(chan struct{})}
	for i, name := range []string{"one", "two", "spare"} {
		tr.serve(name, fmt.Sprintf("10.0.0.%d", 10+i), fmt.Sprintf("fd00:10::%d", 10+i))
	}
	var clients sync.WaitGroup
	var ex exchanges
	var made, slow, broken atomic.Int64
	for range 10 {
		clients.Go(func() {
			pace := time.NewTicker(2 * time.Millisecond)
			defer pace.Stop()
			for {
				select {
				case <-tr.stop:
					return
				case <-pace.C:
				}
				var c net.Conn
				began, from := time.Now(), ex.count()
				if err := tr.in("client").Do(func() (err error) { c, err = net.DialTimeout("tcp", "10.96.0.1:80", patience); return err }); err != nil {
					t.Errorf("connect: %v", err)
					return
				}
				if time.Since(began) > 900*time.Millisecond {
					slow.Add(1)
				}
				made.Add(1)
				to := ex.count()
				b := make([]byte, 100)
				for i := range 100 {
					<-pace.C
					fill(b, i)
					_, err := c.Write(b)
					if err == nil {
						_, err = c.Read(b)
					}
					if err != nil {
						broken.Add(1)
						if t.Logf("round %d: %v", i, err); !ex.near(from, to) {
							t.Errorf("a connection broke that was made between writes %d and %d, when no program was exchanged", from, to)
						}
						break
					}
				}
				c.Close()
			}
		})
	}
	for i := range 10 {
		h := kindtest.Open(t, o)
		h.OnWrite = ex.note
		if err := one(t.Context(), h, compileAll(t, streamed("packet", sizes[(i+1)%2]...))); err != nil {
			t.Error(err)
		}
	}
	close(tr.stop)
	clients.Wait()
	t.Logf("%d connections, %d took a second try, %d broke", made.Load(), slow.Load(), broken.Load())
}
