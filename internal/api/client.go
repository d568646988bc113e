package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// dialTime is how long a daemon may take to accept: a listening socket accepts at once, whatever the daemon is doing.
const dialTime = time.Second

// Client asks the daemon of a node.
type Client struct {
	runDir string
	http   http.Client
}

// Running reports whether a daemon listens in a node's run folder.
func Running(runDir string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), dialTime)
	defer cancel()
	c, err := dial(ctx, runDir)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// Dial returns a client of the daemon of a node, nil where none listens.
func Dial(runDir string) *Client {
	if !Running(runDir) {
		return nil
	}
	return &Client{runDir, http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, runDir) },
	}}}
}

func dial(ctx context.Context, runDir string) (net.Conn, error) {
	path, done, err := short(runDir)
	if err != nil {
		return nil, err
	}
	defer done()
	return new(net.Dialer).DialContext(ctx, "unix", path)
}

// Get asks for "daemon", "status", "status?verbose=true", "services" or "pods".
func (c *Client) Get(ctx context.Context, what string, answer any) error {
	return c.do(ctx, http.MethodGet, what, nil, answer)
}

// Post asks for a deed and returns the daemon's status after it.
func (c *Client) Post(ctx context.Context, what string, body any) (s Status, err error) {
	err = c.do(ctx, http.MethodPost, what, body, &s)
	return s, err
}

func (c *Client) do(ctx context.Context, method, what string, body, answer any) error {
	var b io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("ask the daemon: %w", err)
		}
		b = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://plumb/v1/"+what, b)
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	r, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		var f failure
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&f); err != nil || f.Error == "" {
			return fmt.Errorf("ask the daemon: it answers %s", r.Status)
		}
		return errors.New(f.Error)
	}
	if err := json.NewDecoder(r.Body).Decode(answer); err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	return nil
}
