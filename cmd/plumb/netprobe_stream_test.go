package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// streamPace is the pause between two questions of a stream, and streamPatience how long an answer may take: TCP sends again
// what was lost, so it is compared with what comes, UDP doesn't, so that one lost datagram is the end of it.
const (
	streamPace     = 2 * time.Millisecond
	streamPatience = 10 * time.Second
)

// stream opens clients, each "HOW ADDR:PORT" as meet has it, and says "ready" when all are answered. Each goes on asking a server
// as netprobe answer starts it, five hundred times a second, until stdin ends. Every answer has to come from who was asked, of
// the server that gave the first, with every byte of the question. It prints how many each has had.
func stream(steps []string) error {
	type one struct {
		*client
		name  string
		asked int
	}
	all := make([]one, len(steps))
	for i, s := range steps {
		how, addr, _ := strings.Cut(s, " ")
		at, err := netip.ParseAddrPort(addr)
		if err != nil {
			return err
		}
		if all[i].client, err = open(how, at, streamPatience, true); err == nil {
			all[i].name, _, err = all[i].ask()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	fmt.Println("ready")
	stop := make(chan struct{})
	failed := make([]error, len(steps))
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			c := &all[i]
			pace := time.NewTicker(streamPace)
			defer pace.Stop()
			for ; ; c.asked++ {
				select {
				case <-stop:
					return
				case <-pace.C:
				}
				name, _, err := c.say(fmt.Sprintf("%s question %d\n", steps[i], c.asked))
				if err == nil && name != c.name {
					err = fmt.Errorf("%s answers, and not %s", name, c.name)
				}
				if err != nil {
					failed[i] = fmt.Errorf("%s: question %d, at %s: %w", steps[i], c.asked, time.Now().Format("15:04:05.000"), err)
					return
				}
			}
		})
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); { // until it ends
	}
	close(stop)
	wg.Wait()
	for i, s := range steps {
		fmt.Printf("%s: %d answers of %s\n", s, all[i].asked, all[i].name)
	}
	return errors.Join(failed...)
}
