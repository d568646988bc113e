package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"

	"golang.org/x/sys/unix"
)

// HTTPRequest is what a probe of type HTTP asks for, and what the answer must be like.
type HTTPRequest struct {
	Path   string // "/" if empty
	Host   string // the address if empty
	Status int    // any of 200 to 399 if 0
	Body   string // a regular expression; "" for any
}

// maxBody is how much of a body is looked at.
const maxBody = 1 << 20

func (r HTTPRequest) run(ctx context.Context, ns Namespace, at netip.AddrPort) error {
	match, err := regexp.Compile(r.Body)
	if err != nil {
		return fmt.Errorf("body: %w", err)
	}
	path := cmp.Or(r.Path, "/")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.String()+path, nil)
	if err != nil {
		return fmt.Errorf("path: %w", err)
	}
	req.Host = r.Host
	req.Header.Set("User-Agent", "plumb")
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dial(ctx, ns, unix.SOCK_STREAM, 0, at)
		},
	}
	// A redirection is an answer.
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return r.broken(ctx, at, err)
	}
	defer resp.Body.Close()
	if r.Status != 0 && resp.StatusCode != r.Status {
		return &Unreachable{Answered: true, Text: fmt.Sprintf("HTTP status %d from %s for %s, want %d", resp.StatusCode, at, path, r.Status)}
	}
	if r.Status == 0 && (resp.StatusCode < 200 || resp.StatusCode > 399) {
		return &Unreachable{Answered: true, Text: fmt.Sprintf("HTTP status %d from %s for %s, want 200 to 399", resp.StatusCode, at, path)}
	}
	if r.Body == "" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return r.broken(ctx, at, err)
	}
	if !match.Match(body) {
		return &Unreachable{Answered: true, Text: fmt.Sprintf("the body from %s for %s doesn't match %q: it is %s", at, path, r.Body, quote(body))}
	}
	return nil
}

// broken tells an answer that isn't HTTP, or breaks off, from a connection that can't be made.
func (r HTTPRequest) broken(ctx context.Context, at netip.AddrPort, err error) error {
	_, errno := errors.AsType[unix.Errno](err)
	_, local := errors.AsType[*socketError](err)
	var timeout net.Error
	if errno || local || ctx.Err() != nil || errors.As(err, &timeout) && timeout.Timeout() {
		return err
	}
	return &Unreachable{Answered: true, Text: fmt.Sprintf("%s doesn't answer as HTTP does: %v", at, err), Err: err}
}
