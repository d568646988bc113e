package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
)

// namespace opens a new namespace as a host of its own.
func namespace(t *testing.T) (*host.NS, *os.File) {
	t.Helper()
	f := kindtest.Namespace(t)
	h := kindtest.Open(t, host.Options{RootNS: fmt.Sprintf("/proc/self/fd/%d", f.Fd())})
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	return ns, f
}

// pair makes two namespaces with a cable between them: the first has 192.0.2.1 and 2001:db8::1, the second 2.
func pair(t *testing.T) (near, far *host.NS) {
	t.Helper()
	kindtest.NeedRoot(t)
	near, _ = namespace(t)
	far, file := namespace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	if err := near.Handle().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(file.Fd()))}); err != nil {
		t.Fatal(err)
	}
	for i, ns := range []*host.NS{near, far} {
		for _, name := range []string{"lo", "eth0"} {
			l, err := ns.Handle().LinkByName(name)
			if err == nil {
				err = ns.Handle().LinkSetUp(l)
			}
			if err != nil {
				t.Fatal(err)
			}
			if name == "lo" {
				continue
			}
			for _, text := range []string{fmt.Sprintf("192.0.2.%d/24", i+1), fmt.Sprintf("2001:db8::%d/64", i+1)} {
				a, err := netlink.ParseAddr(text)
				if err != nil {
					t.Fatal(err)
				}
				a.Flags = unix.IFA_F_NODAD
				if err := ns.Handle().AddrAdd(l, a); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return near, far
}

// in calls fn in a namespace.
func in[T any](t *testing.T, ns *host.NS, fn func() (T, error)) (v T) {
	t.Helper()
	if err := ns.Do(func() (err error) { v, err = fn(); return err }); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestProbe(t *testing.T) {
	near, far := pair(t)
	// Port 80 speaks HTTP, 81 accepts and says nothing, 82 isn't listened at; 53 echoes datagrams.
	web := in(t, far, func() (net.Listener, error) { return net.Listen("tcp", ":80") })
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "host %s, all is well\n", r.Host) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/broken", http.StatusFound) })
	server := &http.Server{Handler: mux}
	go server.Serve(web)
	t.Cleanup(func() { server.Close() })
	mute := in(t, far, func() (net.Listener, error) { return net.Listen("tcp", ":81") })
	t.Cleanup(func() { mute.Close() })
	for _, at := range []string{"192.0.2.2:53", "[2001:db8::2]:53"} {
		c := in(t, far, func() (net.PacketConn, error) { return net.ListenPacket("udp", at) })
		t.Cleanup(func() { c.Close() })
		go func() {
			buf := make([]byte, 100)
			for {
				n, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				c.WriteTo(buf[:n], from)
			}
		}()
	}
	const long, short = 5 * time.Second, 100 * time.Millisecond
	for _, c := range []struct {
		name  string
		probe Probe
		port  uint16
		want  string // a regular expression; "" for reachable
	}{
		{"tcp", Probe{Type: TCP, Timeout: long}, 80, ""},
		{"tcp refused", Probe{Type: TCP, Timeout: long}, 82, `^connection refused by ADDR:82 after [0-9.]+ ms$`},
		{"udp", Probe{Type: UDP, Timeout: long}, 53, ""},
		{"udp match", Probe{Type: UDP, Timeout: long, UDP: UDPRequest{Send: "hello", Match: "^hel+o$"}}, 53, ""},
		{"udp mismatch", Probe{Type: UDP, Timeout: long, UDP: UDPRequest{Send: "hello", Match: "^help"}}, 53,
			`^the answer from ADDR:53 doesn't match "\^help": it is "hello"$`},
		{"udp refused", Probe{Type: UDP, Timeout: long}, 82, `^connection refused by ADDR:82 after`},
		{"http", Probe{Type: HTTP, Timeout: long}, 80, ""},
		{"http body and host", Probe{Type: HTTP, Timeout: long, HTTP: HTTPRequest{Host: "example.org", Body: `host example\.org, all`}}, 80, ""},
		{"http wrong body", Probe{Type: HTTP, Timeout: long, HTTP: HTTPRequest{Body: "^well"}}, 80,
			`^the body from ADDR:80 for / doesn't match "\^well": it is "host .*all is well\\n"$`},
		{"http broken", Probe{Type: HTTP, Timeout: long, HTTP: HTTPRequest{Path: "/broken"}}, 80,
			`^HTTP status 503 from ADDR:80 for /broken, want 200 to 399$`},
		{"http wanted to be broken", Probe{Type: HTTP, Timeout: long, HTTP: HTTPRequest{Path: "/broken", Status: 503}}, 80, ""},
		{"http moved", Probe{Type: HTTP, Timeout: long, HTTP: HTTPRequest{Path: "/moved"}}, 80, ""},
		{"http wrong status", Probe{Type: HTTP, Timeout: long, HTTP: HTTPRequest{Status: 204}}, 80, `^HTTP status 200 from ADDR:80 for /, want 204$`},
		{"http mute", Probe{Type: HTTP, Timeout: short}, 81, `^no answer from ADDR:81 within 100ms$`},
		{"http refused", Probe{Type: HTTP, Timeout: long}, 82, `^connection refused by ADDR:82 after`},
		{"icmp", Probe{Type: ICMP, Timeout: long}, 0, ""},
	} {
		for _, addr := range []string{"192.0.2.2", "2001:db8::2"} {
			c.probe.Addr = netip.AddrPortFrom(netip.MustParseAddr(addr), c.port)
			at := regexp.QuoteMeta(strings.TrimSuffix(c.probe.Addr.String(), fmt.Sprintf(":%d", c.port)))
			check(t, c.name+" "+addr, c.probe.Run(t.Context(), near), strings.ReplaceAll(c.want, "ADDR", at))
		}
	}
	for _, c := range []struct {
		name, addr, want string
		kind             string
	}{
		{"lost", "192.0.2.9:80", `^192\.0\.2\.9:80: no route to host after|^no answer from 192.0.2.9:80 within 100ms`, TCP},
		{"lost", "[2001:db8::9]:80", `: no route to host after|^no answer from .* within 100ms`, TCP},
		{"lost echo", "192.0.2.9:0", `192\.0\.2\.9: no route to host after|^no answer from 192\.0\.2\.9 within 100ms`, ICMP},
		{"no route", "198.51.100.1:80", `^198\.51\.100\.1:80: network is unreachable after`, TCP},
		{"no route", "[2001:db8:1::1]:80", `: network is unreachable after`, UDP},
		{"no route", "198.51.100.1:0", `^198\.51\.100\.1: network is unreachable after`, ICMP},
	} {
		p := Probe{Type: c.kind, Addr: netip.MustParseAddrPort(c.addr), Timeout: short}
		check(t, c.name+" "+c.kind+" "+c.addr, p.Run(t.Context(), near), c.want)
	}

	// What can't be asked is no answer.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Probe{Type: TCP, Addr: netip.MustParseAddrPort("192.0.2.2:81"), Timeout: long}.Run(ctx, near)
	if _, told := errors.AsType[*Unreachable](err); err != nil && (told || !errors.Is(err, context.Canceled)) {
		t.Errorf("cancelled: %v", err)
	}
	err = Probe{Type: UDP, Addr: netip.MustParseAddrPort("192.0.2.2:53"), Timeout: long, UDP: UDPRequest{Match: "("}}.Run(t.Context(), near)
	if _, told := errors.AsType[*Unreachable](err); err == nil || told {
		t.Errorf("with a broken expression: %v", err)
	}
	broken := nowhere{errors.New("the namespace is gone")}
	err = Probe{Type: HTTP, Addr: netip.MustParseAddrPort("192.0.2.2:80"), Timeout: long}.Run(t.Context(), broken)
	if _, told := errors.AsType[*Unreachable](err); told || !errors.Is(err, broken.err) {
		t.Errorf("from nowhere: %v", err)
	}
}

func check(t *testing.T, name string, err error, want string) {
	t.Helper()
	_, told := errors.AsType[*Unreachable](err)
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case want != "" && err == nil:
		t.Errorf("%s: reachable, want %s", name, want)
	case err != nil && !told:
		t.Errorf("%s: not told: %v", name, err)
	case err != nil && !regexp.MustCompile(want).MatchString(err.Error()):
		t.Errorf("%s: %q, want %s", name, err, want)
	}
}

// nowhere is a namespace that can't be entered.
type nowhere struct{ err error }

func (n nowhere) Do(func() error) error { return n.err }

func TestResolve(t *testing.T) {
	near, far := pair(t)
	server := in(t, far, func() (net.PacketConn, error) { return net.ListenPacket("udp", "192.0.2.2:53") })
	t.Cleanup(func() { server.Close() })
	go kindtest.ServeNames(server, map[string][]netip.Addr{
		"web.example.org": {netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")},
		"six.example.org": {netip.MustParseAddr("2001:db8::6")},
		"a.b":             {netip.MustParseAddr("192.0.2.8")},
	})
	etc := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(etc, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("resolv.conf", "nameserver 192.0.2.99\n")
	write("netns/client/resolv.conf", "# a comment\nsearch example.com example.org\nnameserver 192.0.2.2\noptions ndots:2\n")
	write("netns/two/resolv.conf", "nameserver 192.0.2.2\nnameserver 192.0.2.99\n")
	write("netns/late/resolv.conf", "nameserver 192.0.2.1\nnameserver 192.0.2.2\n") // the first refuses
	write("netns/none/resolv.conf", "search example.org\n")
	const long = 5 * time.Second
	for _, c := range []struct {
		pod, name, want string
		within          time.Duration
	}{
		{"client", "web", "[192.0.2.7 2001:db8::7]", long},
		{"client", "web.example.org.", "[192.0.2.7 2001:db8::7]", long},
		{"client", "a.b", "[192.0.2.8]", long},
		{"two", "six.example.org", "[2001:db8::6]", long},
		{"two", "web", "resolve web: name server 192.0.2.2 knows no such name", long},
		{"late", "a.b", "[192.0.2.8]", long},
		{"other", "web", "resolve web: no answer from name server 192.0.2.99", 200 * time.Millisecond},
	} {
		r, err := ReadResolver(etc, c.pod)
		if err != nil {
			t.Fatal(err)
		}
		addrs, err := r.Resolve(t.Context(), near, c.name, c.within)
		got := fmt.Sprint(addrs)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("pod %s, %s: %s, want %s", c.pod, c.name, got, c.want)
		}
	}
	if _, err := ReadResolver(etc, "none"); err == nil || !strings.Contains(err.Error(), "names no name server") {
		t.Errorf("without a name server: %v", err)
	}
	if _, err := ReadResolver(t.TempDir(), ""); err == nil {
		t.Error("without any file there is no error")
	}
}
