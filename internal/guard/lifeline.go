package guard

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/probe"
)

// Lifeline is a way by which the operator reaches this machine.
type Lifeline struct {
	Name   string     `json:"name"`   // "the default gateway 192.0.2.1"
	Remote netip.Addr `json:"remote"` // who must answer
	Local  netip.Addr `json:"local"`  // an address that must be there; zero for any
	// The ports of the session's connection; zero for none.
	RemotePort uint16 `json:"remote_port,omitempty"`
	LocalPort  uint16 `json:"local_port,omitempty"`
	// Gateway says that there must be a default route over Remote, on this device.
	Gateway bool   `json:"gateway"`
	Dev     string `json:"dev"`
	By      string `json:"by"` // how Remote answered before the first change
}

// answerWithin is how long an answer may take.
const answerWithin = 400 * time.Millisecond

// Lifelines finds the default gateways and the peer of the session that this process belongs to, as far as they can be
// reached now: the others can't be lost.
func Lifelines(ctx context.Context, h *host.Host) ([]Lifeline, error) {
	all, err := gateways(h)
	if err != nil {
		return nil, err
	}
	var there []Lifeline
	for _, l := range all {
		if l.find(ctx, h) {
			there = append(there, l)
		}
	}
	for _, l := range alive(h, sessions()) {
		if l.find(ctx, h) {
			there = append(there, l)
			break
		}
	}
	return there, ctx.Err()
}

func gateways(h *host.Host) (all []Lifeline, err error) {
	routes, devs, err := defaults(h)
	if err != nil {
		return nil, err
	}
	for i, gw := range routes {
		all = append(all, Lifeline{Name: "the default gateway " + gw.String(), Remote: gw, Gateway: true, Dev: devs[i]})
	}
	return all, nil
}

// defaults lists the gateways of the default routes of the main table, with their devices.
func defaults(h *host.Host) (gws []netip.Addr, devs []string, err error) {
	ns, err := h.NS("")
	if err != nil {
		return nil, nil, err
	}
	ns.Forget()
	routes, err := ns.Routes()
	if err != nil {
		return nil, nil, err
	}
	links, err := ns.Links()
	if err != nil {
		return nil, nil, err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	add := func(ip []byte, index int) {
		if a, ok := netip.AddrFromSlice(ip); ok {
			gws, devs = append(gws, a.Unmap()), append(devs, names[index])
		}
	}
	for _, r := range routes {
		if ones, _ := r.Dst.Mask.Size(); ones != 0 || r.Table != unix.RT_TABLE_MAIN || r.Type != unix.RTN_UNICAST {
			continue
		}
		add(r.Gw, r.LinkIndex)
		for _, hop := range r.MultiPath {
			add(hop.Gw, hop.LinkIndex)
		}
	}
	return gws, devs, nil
}

// lost says why nobody gets through any more; nil where somebody does.
func (l Lifeline) lost(ctx context.Context, h *host.Host) error {
	ns, err := h.NS("")
	if err != nil {
		return err
	}
	if l.Gateway {
		gws, devs, err := defaults(h)
		if err != nil {
			return err
		}
		found := false
		for i, gw := range gws {
			found = found || gw == l.Remote && devs[i] == l.Dev
		}
		if !found {
			return errors.New("the default route over it is gone")
		}
	}
	if l.Local.IsValid() {
		ns.Forget()
		addrs, err := ns.Addrs()
		if err != nil {
			return err
		}
		found := false
		for _, a := range addrs {
			ip, _ := netip.AddrFromSlice(a.IP)
			found = found || ip.Unmap() == l.Local
		}
		if !found {
			return fmt.Errorf("the session's own address %s is gone", l.Local)
		}
	}
	return l.silent(ctx, ns)
}

// How somebody answers.
const (
	byEcho      = "echo"
	byTCP       = "tcp"       // a connection, or the refusal of one
	byNeighbour = "neighbour" // to who has the address
	bySession   = "session"   // to what is sent over the session itself: a firewall may let nothing else through
)

// find finds out how the other end answers now.
func (l *Lifeline) find(ctx context.Context, h *host.Host) bool {
	for _, by := range []string{byEcho, byTCP, byNeighbour, bySession} {
		l.By = by
		if by == bySession && !l.open(h) {
			break
		}
		if l.lost(ctx, h) == nil {
			return true
		}
	}
	return false
}

// silent says that the other end doesn't answer any more as it did.
func (l Lifeline) silent(ctx context.Context, ns *host.NS) error {
	if l.By == byNeighbour {
		if err := l.nudge(ns); err != nil {
			return err
		}
		if !l.resolved(ctx, ns) {
			return errors.New("nobody answers to who has this address")
		}
		return nil
	}
	if l.By == bySession {
		// Somebody may have closed it: then it says nothing any more.
		_, deaf, err := l.connection(ns)
		if err == nil && deaf >= unheard {
			err = fmt.Errorf("nothing that was sent in this session arrives, after %d attempts", deaf)
		}
		return err
	}
	if l.Remote.IsLinkLocalUnicast() {
		return errors.New("it takes a device to reach this address")
	}
	p := probe.Probe{Type: probe.ICMP, Addr: netip.AddrPortFrom(l.Remote, 0), Timeout: answerWithin}
	if l.By == byTCP {
		const ssh = 22
		p.Type, p.Addr = probe.TCP, netip.AddrPortFrom(l.Remote, ssh)
	}
	err := p.Run(ctx, ns)
	if l.By == byTCP && errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	return err
}

// nudge sends something, so that the kernel asks who has the address.
func (l Lifeline) nudge(ns *host.NS) error {
	dev := 0
	if l.Dev != "" {
		var err error
		if dev, err = ns.LinkIndex(l.Dev); err != nil {
			return err
		}
	}
	const discard = 9
	family, to := unix.AF_INET, unix.Sockaddr(nil)
	if l.Remote.Is4() {
		to = &unix.SockaddrInet4{Addr: l.Remote.As4(), Port: discard}
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: l.Remote.As16(), Port: discard, ZoneId: uint32(dev)}
	}
	return ns.Do(func() error {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, []byte{0}, 0, to)
	})
}

// resolved waits for an answer to who has the address. What was entered for good proves nothing. An answer is good for half
// a minute or so; when that is over the kernel asks again, and until it knows, the old answer still counts.
func (l Lifeline) resolved(ctx context.Context, ns *host.NS) bool {
	const alive = unix.NUD_REACHABLE | unix.NUD_DELAY | unix.NUD_PROBE
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	tick := time.NewTicker(answerWithin / 10)
	defer tick.Stop()
	for {
		ns.Forget()
		neighs, err := ns.Neighs()
		if err != nil {
			return false
		}
		for _, n := range neighs {
			ip, _ := netip.AddrFromSlice(n.IP)
			if ip.Unmap() == l.Remote && n.State&alive != 0 {
				return true
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}
