package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"plumb.internal/plumb/reconciler/resource"
)

// errNoTerminal is the refusal to apply where nobody can be asked.
var errNoTerminal = errors.New("there is no terminal to ask at: nothing was changed (--yes goes ahead without asking)")

// ask asks a yes/no question; everything but y and yes is no.
func (o *Options) ask(ctx context.Context, question string) error {
	if !terminal(o.In) {
		return &Exit{ExitRefused, errNoTerminal}
	}
	fmt.Fprintf(o.Err, "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(o.In).ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(o.Err)
		return &Exit{ExitRefused, errors.New("interrupted: nothing was changed")}
	case a := <-answer:
		if a == "y" || a == "yes" {
			return nil
		}
		return &Exit{ExitRefused, errors.New("nothing was changed")}
	}
}

// progress returns a function that shows on a terminal how far an apply is, once it takes more than a second, and one that
// clears the line.
func (o *Options) progress() (show func(done, total int, c resource.Change), clear func()) {
	if !terminal(o.Err) || o.JSON() {
		return nil, func() {}
	}
	began := time.Now()
	var last time.Time
	show = func(done, total int, c resource.Change) {
		now := time.Now()
		if now.Sub(began) < time.Second || now.Sub(last) < 100*time.Millisecond {
			return
		}
		last = now
		text := fmt.Sprintf("%d of %d  %s %s", done, total, c.Action.Symbol(), c.ID)
		fmt.Fprintf(o.Err, "\r\x1b[K%.*s", max(20, o.width(o.Err)-1), text)
	}
	return show, func() {
		if !last.IsZero() {
			fmt.Fprint(o.Err, "\r\x1b[K")
		}
	}
}
