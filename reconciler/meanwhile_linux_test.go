package reconciler_test

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/schema"
)

// TestBegunMeanwhile makes connections all the time while maps get other sizes: those that began after a new map had its
// copy, and before its programs ran, go on too; but for one that was made in the moment of the exchange.
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
				began := time.Now()
				if err := tr.in("client").Do(func() (err error) { c, err = net.DialTimeout("tcp", "10.96.0.1:80", patience); return err }); err != nil {
					t.Errorf("connect: %v", err)
					return
				}
				if time.Since(began) > 900*time.Millisecond {
					slow.Add(1)
				}
				made.Add(1)
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
						t.Logf("round %d: %v", i, err)
						break
					}
				}
				c.Close()
			}
		})
	}
	for i := range 10 {
		if err := converge(t, o, compileAll(t, streamed("packet", sizes[(i+1)%2]...))); err != nil {
			t.Error(err)
		}
	}
	close(tr.stop)
	clients.Wait()
	t.Logf("%d connections, %d took a second try, %d broke", made.Load(), slow.Load(), broken.Load())
	if broken.Load()*50 > made.Load() {
		t.Errorf("%d of %d connections broke", broken.Load(), made.Load())
	}
}
