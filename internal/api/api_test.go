package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fake is a daemon that notes what it is asked.
type fake struct{ asked []string }

func (f *fake) Status() Status { return Status{FormatVersion: "1", Node: "n", State: Converged} }
func (f *fake) Look(_ context.Context, what string, verbose bool) (any, error) {
	if verbose {
		what += " verbose"
	}
	if what == "pods" {
		return nil, errors.New("no pods today")
	}
	return map[string]string{"what": what}, nil
}
func (f *fake) Suspend(_ context.Context, reason string) error {
	f.asked = append(f.asked, "suspend "+reason)
	return nil
}
func (f *fake) Resume(context.Context) error  { f.asked = append(f.asked, "resume"); return nil }
func (f *fake) Confirm(context.Context) error { return errors.New("nothing waits") }
func (f *fake) Metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "plumb_up 1\n") })
}

// serve runs a server on a socket whose path is longer than an address.
func serve(t *testing.T, group string) (*fake, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	l, err := Listen(dir, group)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, Handler(f)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(filepath.Join(dir, socketFile)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})
	return f, dir
}

func TestAPI(t *testing.T) {
	f, dir := serve(t, "")
	c := Dial(dir)
	if c == nil {
		t.Fatal("nobody listens")
	}
	var s Status
	if err := c.Get(t.Context(), "daemon", &s); err != nil || s.State != Converged {
		t.Errorf("%+v, %v", s, err)
	}
	var look map[string]string
	if err := c.Get(t.Context(), "services", &look); err != nil || look["what"] != "services" {
		t.Errorf("%v, %v", look, err)
	}
	if err := c.Get(t.Context(), "status?verbose=true", &look); err != nil || look["what"] != "status verbose" {
		t.Errorf("%v, %v", look, err)
	}
	if err := c.Get(t.Context(), "pods", &look); err == nil || err.Error() != "no pods today" {
		t.Errorf("an error comes as %v", err)
	}
	for _, p := range []struct {
		what string
		body any
	}{{"suspend", Suspend{"a look"}}, {"resume", nil}} {
		if s, err := c.Post(t.Context(), p.what, p.body); err != nil || s.Node != "n" {
			t.Errorf("%s: %+v, %v", p.what, s, err)
		}
	}
	if got := strings.Join(f.asked, ", "); got != "suspend a look, resume" {
		t.Errorf("asked was: %s", got)
	}
	if _, err := c.Post(t.Context(), "confirm", nil); err == nil || err.Error() != "nothing waits" {
		t.Errorf("confirm: %v", err)
	}
	if _, err := c.Post(t.Context(), "suspend", map[string]int{"raeson": 1}); err == nil {
		t.Error("an unknown field is taken")
	}
	r, err := c.http.Get("http://plumb/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, _ := io.ReadAll(r.Body); string(b) != "plumb_up 1\n" {
		t.Errorf("metrics: %s", b)
	}
}

func TestListenTwice(t *testing.T) {
	_, dir := serve(t, "")
	if l, err := Listen(dir, ""); err == nil {
		l.Close()
		t.Error("two daemons of one node")
	}
}

// TestListenAfterKill: a socket that nobody listens on any more is in nobody's way.
func TestListenAfterKill(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, socketFile), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if Dial(dir) != nil {
		t.Fatal("somebody listens")
	}
	again, err := Listen(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestAdmits(t *testing.T) {
	for group, mode := range map[string]os.FileMode{"": 0o600, fmt.Sprint(os.Getegid()): 0o660} {
		_, dir := serve(t, group)
		fi, err := os.Stat(filepath.Join(dir, socketFile))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != mode {
			t.Errorf("group %q: mode %v, want %v", group, fi.Mode().Perm(), mode)
		}
	}
	if l, err := Listen(t.TempDir(), "no-such-group"); err == nil {
		l.Close()
		t.Error("a group that isn't there is no error")
	}
}
