package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"plumb.internal/plumb/internal/netns"
)

// noFirewall is a number of rules.
const noFirewall = -1

// firewall gives a host's forward hook a look at connections' states, and rules that match none of its packets.
func firewall(ctx context.Context, root *os.File, rules int) error {
	if rules == noFirewall {
		return nil
	}
	var r bytes.Buffer
	fmt.Fprint(&r, "table inet firewall {\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept\n\t\tct state invalid drop\n")
	for i := range rules {
		fmt.Fprintf(&r, "\t\tip saddr 203.0.%d.%d tcp dport %d drop\n", i>>8, i&0xff, 1+i)
	}
	fmt.Fprint(&r, "\t}\n}\n")
	return netns.Do(int(root.Fd()), func() error {
		nft := exec.CommandContext(ctx, "nft", "-f", "-")
		nft.Stdin = &r
		if out, err := nft.CombinedOutput(); err != nil {
			return fmt.Errorf("set up the firewall: nft: %w: %.500s", err, out)
		}
		return nil
	})
}

// checkTracked asks the kernel whether it tracks connections of a host, right after there was one.
func checkTracked(root *os.File, want bool) error {
	return netns.Do(int(root.Fd()), func() error {
		b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if errors.Is(err, os.ErrNotExist) { // nothing on this machine asked for it yet
			b, err = []byte("0"), nil
		}
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			return fmt.Errorf("read nf_conntrack_count: %w", err)
		}
		switch {
		case want && n == 0:
			return errors.New("the node's kernel tracks no connection, and should")
		case !want && n > 0:
			return fmt.Errorf("the node's kernel tracks %d connections, and should track none", n)
		}
		return nil
	})
}
