package guard

import (
	"context"
	"fmt"
	"time"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/checks"
	"plumb.internal/plumb/internal/host"
)

// tries is how often in a row something must fail before it counts: a packet may get lost.
const tries = 3

// Pauses between two looks, and after a failure.
const (
	watchEvery = time.Second
	retryAfter = 250 * time.Millisecond
)

// watch looks at everything, again and again, and says what is lost, and has been at least for some time; "" where ctx ended
// before that.
func watch(ctx context.Context, o host.Options, all []compiler.Check, lines []Lifeline, atLeast time.Duration) string {
	lost := make(chan string, len(all)+len(lines))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, l := range lines {
		go func() {
			lost <- follow(ctx, o, atLeast, func(h *host.Host) string {
				if err := l.lost(ctx, h); err != nil {
					return fmt.Sprintf("%s can't be reached any more: %v", l.Name, err)
				}
				return ""
			})
		}()
	}
	for _, c := range all {
		go func() {
			lost <- follow(ctx, o, atLeast, func(h *host.Host) string {
				results, err := checks.Run(ctx, h, []compiler.Check{c}, checks.Within)
				switch {
				case err != nil:
					return fmt.Sprintf("check %s: %v", c.Name, err)
				case !results[0].Holds:
					return fmt.Sprintf("check %s (%s) doesn't hold any more: %s", c.Name, c, results[0].Reason)
				}
				return ""
			})
		}()
	}
	select {
	case <-ctx.Done():
		return ""
	case why := <-lost:
		return why
	}
}

// follow looks at one thing until it failed so often in a row, and for so long, that it counts, and says why.
func follow(ctx context.Context, o host.Options, atLeast time.Duration, look func(*host.Host) string) string {
	failed, since := 0, time.Now()
	for {
		pause, began := watchEvery, time.Now()
		why := lookOnce(o, look)
		switch {
		case ctx.Err() != nil:
			return ""
		case why == "":
			failed = 0
		default:
			if failed == 0 {
				since = began
			}
			failed++
			pause = retryAfter
		}
		if failed >= tries && time.Since(since) >= atLeast {
			return why
		}
		select {
		case <-ctx.Done():
			return ""
		case <-time.After(pause):
		}
	}
}

// lookOnce looks with handles of its own, which know nothing from before.
func lookOnce(o host.Options, look func(*host.Host) string) string {
	h, err := host.Open(o)
	if err != nil {
		return err.Error()
	}
	defer h.Close()
	return look(h)
}
