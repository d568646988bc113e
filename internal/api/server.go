package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"
)

// socketFile is the socket's name in the node's run folder.
const socketFile = "api.sock"

// Backend is what the daemon offers.
type Backend interface {
	Status() Status
	// Look answers what the commands ask: "status", "services" or "pods", as those write it in JSON, with all there is to know
	// if verbose is set.
	Look(ctx context.Context, what string, verbose bool) (any, error)
	Suspend(ctx context.Context, reason string) error
	Resume(ctx context.Context) error
	// Confirm keeps an apply that waits to be confirmed.
	Confirm(ctx context.Context) error
	// Metrics answers Prometheus.
	Metrics() http.Handler
}

// Suspend is the body of POST /v1/suspend.
type Suspend struct {
	Reason string `json:"reason"`
}

// failure is the body of every answer that isn't 200.
type failure struct {
	Error string `json:"error"`
}

// Handler serves a backend.
func Handler(b Backend) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/daemon", func(w http.ResponseWriter, r *http.Request) { answer(w, b.Status(), nil) })
	for _, what := range []string{"status", "services", "pods"} {
		mux.HandleFunc("GET /v1/"+what, func(w http.ResponseWriter, r *http.Request) {
			v, err := b.Look(r.Context(), what, r.URL.Query().Get("verbose") == "true")
			answer(w, v, err)
		})
	}
	post(mux, "suspend", b, func(ctx context.Context, s Suspend) error { return b.Suspend(ctx, s.Reason) })
	post(mux, "resume", b, func(ctx context.Context, _ struct{}) error { return b.Resume(ctx) })
	post(mux, "confirm", b, func(ctx context.Context, _ struct{}) error { return b.Confirm(ctx) })
	mux.Handle("GET /metrics", b.Metrics())
	return mux
}

// post serves a wish; the answer is the status after it.
func post[T any](mux *http.ServeMux, name string, b Backend, do func(context.Context, T) error) {
	mux.HandleFunc("POST /v1/"+name, func(w http.ResponseWriter, r *http.Request) {
		var body T
		if r.ContentLength != 0 {
			d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
			d.DisallowUnknownFields()
			if err := d.Decode(&body); err != nil {
				w.WriteHeader(http.StatusBadRequest)
				_ = json.NewEncoder(w).Encode(failure{"read the request: " + err.Error()})
				return
			}
		}
		err := do(r.Context(), body)
		answer(w, b.Status(), err)
	})
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		v = failure{err.Error()}
	}
	_ = json.NewEncoder(w).Encode(v) // whoever asked may be gone
}

// Open reports whether the socket of a node is where it was made: `plumb destroy` takes it along with the run folder.
func Open(runDir string) bool {
	_, err := os.Lstat(filepath.Join(runDir, socketFile))
	return err == nil
}

// Listen opens the socket of a node, for root and, if group isn't "", for its members: they may do all that the API
// offers. A socket that a killed daemon left is replaced; one that answers is an error.
func Listen(runDir, group string) (net.Listener, error) {
	if Running(runDir) {
		return nil, fmt.Errorf("listen on %s: a daemon of this node runs already", filepath.Join(runDir, socketFile))
	}
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	path, done, err := short(runDir)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	defer done()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l.SetUnlinkOnClose(false) // by a path that is gone then
	if err := admit(runDir, path, group); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return &listener{l, filepath.Join(runDir, socketFile)}, nil
}

// admit sets who may connect.
func admit(runDir, path, group string) error {
	if group == "" {
		return os.Chmod(path, 0o600)
	}
	gid, err := strconv.Atoi(group)
	if err != nil {
		g, err := user.LookupGroup(group)
		if err != nil {
			return fmt.Errorf("find group %s: %w", group, err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return fmt.Errorf("find group %s: %w", group, err)
		}
	}
	if err := os.Chown(path, -1, gid); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return err
	}
	// What is in the folder is root's alone, file by file.
	return os.Chmod(runDir, 0o755)
}

// listener removes its socket when it is closed.
type listener struct {
	net.Listener
	path string
}

func (l *listener) Close() error {
	err := l.Listener.Close()
	if rm := os.Remove(l.path); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}

// short is a path to the socket that fits into an address, however long the folder's is.
func short(runDir string) (path string, done func(), err error) {
	dir, err := os.Open(runDir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketFile), func() { dir.Close() }, nil
}

// Serve answers on a listener until ctx ends. The error wraps net.ErrClosed where somebody closed the listener.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	err := s.Serve(l)
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the API: %w", err)
}
