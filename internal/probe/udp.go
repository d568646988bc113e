package probe

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"

	"golang.org/x/sys/unix"
)

// UDPRequest is what a probe of type UDP sends, and what the answer must be like.
type UDPRequest struct {
	Send  string
	Match string // a regular expression; "" for any answer
}

func (r UDPRequest) run(ctx context.Context, ns Namespace, at netip.AddrPort) error {
	match, err := regexp.Compile(r.Match)
	if err != nil {
		return fmt.Errorf("match: %w", err)
	}
	c, err := dial(ctx, ns, unix.SOCK_DGRAM, 0, at)
	if err != nil {
		return err
	}
	defer c.Close()
	return ask(ctx, c, []byte(r.Send), func(answer []byte) (bool, error) {
		if !match.Match(answer) {
			return true, &Unreachable{Answered: true, Text: fmt.Sprintf("the answer from %s doesn't match %q: it is %s", at, r.Match, quote(answer))}
		}
		return true, nil
	})
}

// quote shows the beginning of an answer.
func quote(b []byte) string {
	const most = 60
	if len(b) > most {
		return fmt.Sprintf("%q and %d bytes more", b[:most], len(b)-most)
	}
	return fmt.Sprintf("%q", b)
}
