package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// whoPort is where the host beyond the uplink tells who asks.
const whoPort = "9007"

// tellWho answers each byte with the client's address and a new line.
func (b *beyond) tellWho() {
	b.Helper()
	for _, v := range []string{"4", "6"} {
		err := within(b.underlay, func() error {
			l, err := net.Listen("tcp"+v, ":"+whoPort)
			if err != nil {
				return err
			}
			b.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						who := netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().Unmap().String() + "\n"
						for one := make([]byte, 1); ; {
							if _, err := c.Read(one); err != nil {
								return
							}
							if _, err := io.WriteString(c, who); err != nil {
								return
							}
						}
					}()
				}
			}()
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// dial connects from a pod to who tells who asks.
func (b *beyond) dial(pod string, v6 bool) (c net.Conn, err error) {
	far := b.far[0]
	if v6 {
		far = b.far[1]
	}
	within := within(b.pod(pod), func() error {
		c, err = net.DialTimeout("tcp", net.JoinHostPort(far.String(), whoPort), 10*time.Second)
		return nil
	})
	return c, errors.Join(err, within)
}

// who is who a connection seems to come from.
func who(c net.Conn) (string, error) {
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte{'?'}); err != nil {
		return "", err
	}
	line := make([]byte, 64)
	n, err := c.Read(line)
	return strings.TrimSpace(string(line[:n])), err
}

// masquerading writes how pods are masqueraded; "" for not a word.
func (b *beyond) masquerading(how string, exclude ...string) {
	text := "package plumb\nrouting: {}\n"
	if how != "" {
		text = fmt.Sprintf("package plumb\nrouting: {masquerade: %q, masqueradeExclude: [", how)
		for _, e := range exclude {
			text += fmt.Sprintf("%q,", e)
		}
		text += "]}\n"
	}
	b.write("masquerade.cue", text)
	b.run("plumb", "apply", "--yes", "--allow-disruption")
}

// newMasquerading is a lab whose files name the node's addresses, and these.
func newMasquerading(t *testing.T) (b *beyond, own [2]string) {
	b = newBeyond(t)
	b.tellWho()
	var list []string
	for _, text := range b.lab.Nodes[0].Uplinks[0].Addresses {
		a := netip.MustParsePrefix(text).Addr()
		if a.Is4() && own[0] == "" {
			own[0] = a.String()
		} else if a.Is6() && own[1] == "" {
			own[1] = a.String()
		}
		list = append(list, fmt.Sprintf("%q", a))
	}
	if own[0] == "" || own[1] == "" {
		t.Fatalf("the node has %v", own)
	}
	b.write("addresses.cue", fmt.Sprintf("package plumb\nnodes: \"edge-1\": addresses: [%s]\n", strings.Join(list, ", ")))
	return b, own
}

// Pods leave by the node's address where the files say so, by eBPF or nftables, past the stack or through it, but for what is
// excluded. What eBPF began lives on when the way changes.
func TestMasquerade(t *testing.T) {
	b, own := newMasquerading(t)
	pods := map[string][2]string{"client": {"10.0.0.10", "fd00:10::10"}, "web": {"10.0.0.20", "fd00:10::20"}}
	seen := func(how string, want func(pod string, family int) string) {
		t.Helper()
		for pod := range pods {
			for family := range 2 {
				c, err := b.dial(pod, family == 1)
				if err != nil {
					t.Fatalf("%s: %s connects: %v", how, pod, err)
				}
				got, err := who(c)
				c.Close()
				if err != nil || got != want(pod, family) {
					t.Errorf("%s: %s is seen as %q, not %q: %v", how, pod, got, want(pod, family), err)
				}
			}
		}
	}
	masked := func(_ string, family int) string { return own[family] }
	bare := func(pod string, family int) string { return pods[pod][family] }
	still := func(how string, c net.Conn, want string) {
		t.Helper()
		if got, err := who(c); err != nil || got != want {
			t.Errorf("%s: a connection that was there is seen as %q, not %q: %v", how, got, want, err)
		}
	}
	open := func() net.Conn {
		t.Helper()
		c, err := b.dial("client", false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	b.masquerading("")
	seen("nothing said", bare)
	before := open()
	still("nothing said", before, "10.0.0.10")
	for _, way := range []string{"legacy", "auto"} {
		b.route(way)
		b.masquerading("bpf")
		seen("bpf, "+way, masked)
		still("bpf, "+way, before, "10.0.0.10")
		c := open()
		still("bpf, "+way, c, own[0])
		b.masquerading("bpf", b.far[0].String()+"/32")
		seen("excluded", func(pod string, family int) string {
			if family == 0 {
				return bare(pod, family)
			}
			return masked(pod, family)
		})
		still("excluded", c, own[0])
		b.masquerading("off")
		seen("off", bare)
		still("off", c, own[0])
		still("off", before, "10.0.0.10")
		b.masquerading("nftables")
		seen("nftables", masked)
		still("nftables", c, own[0])
		still("nftables", before, "10.0.0.10")
		b.masquerading("bpf")
		seen("bpf again", masked)
		still("bpf again", c, own[0])
		still("bpf again", before, "10.0.0.10")
	}
	b.run("plumb", "exec", "client", "--", "ping", "-c", "2", "-W", "5", b.far[0].String())
	b.run("plumb", "exec", "web", "--", "ping", "-c", "2", "-W", "5", b.far[1].String())
}

// Connections that nftables masquerades end with it, so their end is announced and has to be allowed; those that eBPF
// masquerades live on, and nobody is asked.
func TestMasqueradeEnds(t *testing.T) {
	b, own := newMasquerading(t)
	masquerade := func(how string, allow ...string) (string, error) {
		b.write("masquerade.cue", fmt.Sprintf("package plumb\nrouting: masquerade: %q\n", how))
		out, err := inLab(t, b.lab, append([]string{"apply", "--yes"}, allow...)...).CombinedOutput()
		return string(out), err
	}
	open := func() net.Conn {
		t.Helper()
		c, err := b.dial("client", false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if got, err := who(c); err != nil || got != own[0] {
			t.Fatalf("a new connection is seen as %q, not %q: %v", got, own[0], err)
		}
		return c
	}
	b.masquerading("nftables")
	for _, to := range []string{"bpf", "off"} {
		c := open()
		out, err := masquerade(to)
		if err == nil || !strings.Contains(out, "established connections end") || !strings.Contains(out, "need --allow-disruption") {
			t.Errorf("from nftables to %s: connections end without a word: %v\n%s", to, err, out)
		}
		if got, err := who(c); err != nil || got != own[0] {
			t.Errorf("what was refused is done: seen as %q: %v", got, err)
		}
		if out, err := masquerade(to, "--allow-disruption"); err != nil {
			t.Fatalf("to %s: %v\n%s", to, err, out)
		}
		if got, err := who(c); err == nil {
			t.Errorf("from nftables to %s: it was said to end, and is seen as %q", to, got)
		}
		b.forget()
		if out, err := masquerade("nftables"); err != nil {
			t.Fatalf("from %s to nftables: %v\n%s", to, err, out)
		}
	}
	if out, err := masquerade("bpf"); err != nil {
		t.Fatalf("with nothing under way: %v\n%s", err, out)
	}
	c := open()
	for _, to := range []string{"nftables", "bpf", "off", "bpf"} {
		if out, err := masquerade(to); err != nil {
			t.Fatalf("to %s: %v\n%s", to, err, out)
		}
		if got, err := who(c); err != nil || got != own[0] {
			t.Errorf("to %s: a connection of eBPF is seen as %q, not %q: %v", to, got, own[0], err)
		}
	}
}

// retransmitted is how many segments a pod had to send again.
func (b *beyond) retransmitted(pod string) (n int) {
	b.Helper()
	err := within(b.pod(pod), func() error {
		data, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(data)) {
			if fields := strings.Fields(line); len(fields) > 0 && fields[0] == "Tcp:" {
				if names == nil {
					names = fields
					continue
				}
				for i, name := range names {
					if name == "RetransSegs" {
						_, err = fmt.Sscan(fields[i], &n)
					}
				}
			}
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// Many short connections to one destination by one address, three times as many as there are ports: each gets one.
func TestMasqueradeManyConnections(t *testing.T) {
	b, own := newMasquerading(t)
	b.masquerading("bpf")
	each, clients := 25_000, 4
	if testing.Short() {
		each = 500
	}
	pods := []string{"client", "web"}
	before := map[string]int{}
	for _, p := range pods {
		before[p] = b.retransmitted(p)
	}
	var wg sync.WaitGroup
	failed := make(chan error, clients)
	for i := range clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := range each {
				c, err := b.dial(pods[i%len(pods)], false)
				if err == nil {
					var got string
					got, err = who(c)
					c.Close()
					if err == nil && got != own[0] {
						err = fmt.Errorf("seen as %s", got)
					}
				}
				if err != nil {
					failed <- fmt.Errorf("connection %d of %s: %w", n, pods[i%len(pods)], err)
					return
				}
			}
		}()
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	for _, p := range pods {
		t.Logf("%s: %d connections, %d segments sent again", p, each*clients/len(pods), b.retransmitted(p)-before[p])
	}
	if out := b.run("plumb", "status", "--verbose"); strings.Contains(out, "no-room") {
		for line := range strings.Lines(out) {
			if strings.Contains(line, "no-room") && !strings.Contains(line, " 0") {
				t.Errorf("connections were refused a port: %s", line)
			}
		}
	}
}
