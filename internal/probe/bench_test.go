package probe

import (
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
)

// BenchmarkProbe is what a probe of a backend costs that answers at once.
func BenchmarkProbe(b *testing.B) {
	kindtest.NeedRoot(b)
	f := kindtest.Namespace(b)
	h := kindtest.Open(b, host.Options{RootNS: "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))})
	ns, err := h.NS("")
	if err != nil {
		b.Fatal(err)
	}
	lo, err := ns.Handle().LinkByName("lo")
	if err == nil {
		err = ns.Handle().LinkSetUp(lo)
	}
	if err != nil {
		b.Fatal(err)
	}
	var l net.Listener
	if err := ns.Do(func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:80"); return err }); err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	for _, kind := range []string{TCP, ICMP} {
		b.Run(kind, func(b *testing.B) {
			b.ReportAllocs()
			p := Probe{Type: kind, Addr: netip.MustParseAddrPort("127.0.0.1:80"), Timeout: 5 * time.Second}
			for b.Loop() {
				if err := p.Run(b.Context(), ns); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
