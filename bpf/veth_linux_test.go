package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/internal/netns"
)

// pods are a client's and a backend's namespace and the host between them, with the programs on the host's ends.
type pods struct {
	datapath
	host, client, backend *os.File
}

// within runs fn in a namespace and ends the test if it fails.
func (p pods) within(t *testing.T, ns *os.File, fn func(h *netlink.Handle) error) {
	t.Helper()
	err := netns.Do(int(ns.Fd()), func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return fn(h)
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		t.Skip(err) // no tcx
	}
	if err != nil {
		t.Fatal(err)
	}
}

func newPods(t *testing.T, way string, settings map[string]uint32) pods {
	p := pods{datapath: newDatapath(t, settings)}
	p.host, p.client, p.backend = kindtest.Namespace(t), kindtest.Namespace(t), kindtest.Namespace(t)
	p.within(t, p.host, func(*netlink.Handle) error {
		for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	})
	p.connect(t, way, p.client, "client", client4.Addr(), client6.Addr())
	p.connect(t, way, p.backend, "backend", behind4.Addr(), behind6.Addr())
	p.awaitCarrier(t, p.host, "client", "backend")
	p.awaitCarrier(t, p.client, "eth0")
	p.awaitCarrier(t, p.backend, "eth0")
	return p
}

// connect makes a pair between the host and a pod that has two addresses of its own.
func (p pods) connect(t *testing.T, way string, pod *os.File, name string, addresses ...netip.Addr) {
	t.Helper()
	number := 1 + name[0] - 'a'
	mac, hostMAC := net.HardwareAddr{2, 0, 0, 0, 1, number}, net.HardwareAddr{2, 0, 0, 0, 2, number}
	gateways := []netip.Addr{netip.MustParseAddr("169.254.10.24"), netip.MustParseAddr("fe80::1")}
	all := []string{"0.0.0.0/0", "::/0"}
	settle := func(h *netlink.Handle, l netlink.Link, to netip.Prefix, via netip.Addr, at net.HardwareAddr) error {
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: prefix(to), Scope: netlink.SCOPE_LINK}
		neighbour := to.Addr()
		if via.IsValid() {
			r.Scope, r.Gw, r.Flags = netlink.SCOPE_UNIVERSE, via.AsSlice(), int(netlink.FLAG_ONLINK)
			neighbour = via
		}
		if err := h.RouteAdd(r); err != nil {
			return fmt.Errorf("route to %v: %w", to, err)
		}
		family := netlink.FAMILY_V4
		if to.Addr().Is6() {
			family = netlink.FAMILY_V6
		}
		return h.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT,
			IP: neighbour.AsSlice(), HardwareAddr: at})
	}
	p.within(t, p.host, func(h *netlink.Handle) error {
		veth := netlink.NewVeth(netlink.NewLinkAttrs())
		veth.Name, veth.HardwareAddr, veth.PeerName, veth.PeerHardwareAddr = name, hostMAC, "eth0", mac
		veth.PeerNamespace = netlink.NsFd(pod.Fd())
		if err := h.LinkAdd(veth); err != nil {
			return fmt.Errorf("make the pair: %w", err)
		}
		l, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(l); err != nil {
			return err
		}
		// Errors have the source that the host has on the device.
		for _, a := range gateways {
			bits := a.BitLen()
			if err := h.AddrAdd(l, &netlink.Addr{IPNet: prefix(netip.PrefixFrom(a, bits)), Flags: unix.IFA_F_NODAD}); err != nil {
				return fmt.Errorf("address %v: %w", a, err)
			}
		}
		for _, a := range addresses {
			if err := settle(h, l, netip.PrefixFrom(a, a.BitLen()), netip.Addr{}, mac); err != nil {
				return err
			}
			e := Endpoint{Ifindex: uint32(l.Attrs().Index), MAC: [6]byte(mac), HostMAC: [6]byte(hostMAC), Attach: Veth}
			if err := p.Maps["endpoints"].Put(AddressOf(a), e); err != nil {
				return err
			}
		}
		return p.attach(t, h, way, l)
	})
	p.within(t, pod, func(h *netlink.Handle) error {
		l, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(l); err != nil {
			return err
		}
		for i, a := range addresses {
			addr := &netlink.Addr{IPNet: prefix(netip.PrefixFrom(a, a.BitLen())), Flags: unix.IFA_F_NODAD}
			if err := h.AddrAdd(l, addr); err != nil {
				return fmt.Errorf("address %v: %w", a, err)
			}
			if err := settle(h, l, netip.MustParsePrefix(all[i]), gateways[i], hostMAC); err != nil {
				return err
			}
		}
		return nil
	})
}

// awaitCarrier waits until devices send: for a moment after they came up they throw away what they are given.
func (p pods) awaitCarrier(t *testing.T, ns *os.File, devices ...string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(5 * time.Second)
	p.within(t, ns, func(h *netlink.Handle) error {
		for _, name := range devices {
			for {
				l, err := h.LinkByName(name)
				if err != nil {
					return err
				}
				if l.Attrs().OperState == netlink.OperUp {
					break
				}
				select {
				case <-tick.C:
				case <-deadline:
					return fmt.Errorf("%s has no carrier after 5 s", name)
				}
			}
			// The rest, IPv6 above all, happens under a lock that this waits for.
			l, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			if err := h.LinkSetUp(l); err != nil {
				return err
			}
		}
		return nil
	})
}

func prefix(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// attach puts the programs on a pair's end, by tcx or clsact. They go with the device.
func (p pods) attach(t *testing.T, h *netlink.Handle, way string, l netlink.Link) error {
	index := l.Attrs().Index
	if way == "tcx" {
		for program, at := range map[string]ebpf.AttachType{"from_pod": ebpf.AttachTCXIngress, "to_pod": ebpf.AttachTCXEgress} {
			k, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p.Programs[program], Attach: at})
			if err != nil {
				return err
			}
			t.Cleanup(func() { k.Close() })
		}
		return nil
	}
	err := h.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index,
		Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
	if err != nil {
		return fmt.Errorf("clsact: %w", err)
	}
	for program, parent := range map[string]uint32{"from_pod": netlink.HANDLE_MIN_INGRESS, "to_pod": netlink.HANDLE_MIN_EGRESS} {
		err := h.FilterAdd(&netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: parent, Handle: 1,
			Priority: 1, Protocol: unix.ETH_P_ALL}, Fd: p.Programs[program].FD(), Name: program, DirectAction: true})
		if err != nil {
			return fmt.Errorf("filter %s: %w", program, err)
		}
	}
	return nil
}

// software makes the kernel fill in the checksums of all that leaves through a host's end itself.
func (p pods) software(t *testing.T, device string) {
	t.Helper()
	p.within(t, p.host, func(*netlink.Handle) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		value := struct{ command, on uint32 }{unix.ETHTOOL_STXCSUM, 0}
		var request struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}
		copy(request.name[:], device)
		request.data = unsafe.Pointer(&value)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
			return fmt.Errorf("ethtool -K %s tx off: %w", device, errno)
		}
		return nil
	})
}

// dial connects in a namespace. What is read or written later takes at most 5 s.
func (p pods) dial(t *testing.T, ns *os.File, network string, from, to netip.AddrPort) (c net.Conn, err error) {
	t.Helper()
	d := net.Dialer{Timeout: 5 * time.Second}
	if from.IsValid() && network == "udp" {
		d.LocalAddr = net.UDPAddrFromAddrPort(from)
	}
	p.within(t, ns, func(*netlink.Handle) error {
		c, err = d.Dial(network, to.String())
		return nil
	})
	if err == nil {
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return c, err
}

func (p pods) mustDial(t *testing.T, ns *os.File, network string, from, to netip.AddrPort) net.Conn {
	t.Helper()
	c, err := p.dial(t, ns, network, from, to)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// answering receives at a backend and calls answer for each datagram.
func (p pods) answering(t *testing.T, at netip.AddrPort, answer func(c *net.UDPConn, data []byte, from netip.AddrPort)) {
	t.Helper()
	p.within(t, p.backend, func(*netlink.Handle) error {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 1<<16)
			for {
				n, from, err := c.ReadFromUDPAddrPort(b)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					answer(c, bytes.Clone(b[:n]), from)
				}
			}
		}()
		return nil
	})
}

// refused writes, and waits for the error that comes back.
func refused(t *testing.T, c net.Conn, data []byte) {
	t.Helper()
	began := time.Now()
	_, err := c.Write(data)
	if err == nil {
		_, err = c.Read(make([]byte, 16))
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v after %v, want %v", err, time.Since(began), syscall.ECONNREFUSED)
	}
}

func socketOption(t *testing.T, c net.Conn, level, option, value int) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, value) }); err != nil || set != nil {
		t.Fatal(err, set)
	}
}

// eachWay runs a test for each way to attach the programs, each setting, and each family.
func eachWay(t *testing.T, test func(t *testing.T, p pods, client, front, behind netip.AddrPort)) {
	for _, way := range []string{"tcx", "clsact"} {
		for _, straight := range []uint32{0, 1} {
			t.Run(fmt.Sprint(way, " redirect ", straight), func(t *testing.T) {
				p := newPods(t, way, map[string]uint32{"redirect": straight, "source_check": 1})
				for _, v := range []struct{ client, front, behind netip.AddrPort }{
					{client4, front4, behind4}, {client6, front6, behind6},
				} {
					t.Run(v.client.Addr().String(), func(t *testing.T) {
						for _, proto := range []uint8{TCP, UDP} {
							p.service(v.front, proto, Frontend{Algorithm: Random}, v.behind)
						}
						// A pod whose device has just come up may not know its own IPv6 address for a moment and lose
						// what comes. TCP asks again.
						p.dial(t, p.client, "tcp", netip.AddrPort{}, v.front)
						test(t, p, v.client, v.front, v.behind)
						p.sumsAreRight(t)
					})
				}
			})
		}
	}
}

// sumsAreRight looks whether anybody threw a packet away for its checksum.
func (p pods) sumsAreRight(t *testing.T) {
	t.Helper()
	for _, ns := range []*os.File{p.client, p.backend} {
		p.within(t, ns, func(*netlink.Handle) error {
			for _, name := range []string{"snmp", "snmp6"} {
				b, err := os.ReadFile("/proc/thread-self/net/" + name)
				if err != nil {
					return err
				}
				var names []string
				for line := range strings.Lines(string(b)) {
					f := strings.Fields(line)
					if len(f) == 2 { // snmp6
						if strings.Contains(f[0], "Csum") && f[1] != "0" {
							t.Errorf("%s is %s", f[0], f[1])
						}
						continue
					}
					if names == nil {
						names = f
						continue
					}
					for i, n := range names {
						if strings.Contains(n, "Csum") && f[i] != "0" {
							t.Errorf("%s %s is %s", f[0], n, f[i])
						}
					}
					names = nil
				}
			}
			return nil
		})
	}
}

func TestNobodyAnswers(t *testing.T) {
	eachWay(t, func(t *testing.T, p pods, client, front, _ netip.AddrPort) {
		empty := netip.AddrPortFrom(front.Addr(), 81)
		p.empty(t, empty, TCP, UDP)
		for _, inSoftware := range []bool{false, true} {
			if inSoftware {
				p.software(t, "client")
			}
			if _, err := p.dial(t, p.client, "tcp", netip.AddrPort{}, empty); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("connect: %v, want %v", err, syscall.ECONNREFUSED)
			}
			for _, size := range []int{0, 1, 100, 1400, 5000} {
				refused(t, p.mustDial(t, p.client, "udp", netip.AddrPort{}, empty), make([]byte, size))
			}
			// Many datagrams in one buffer, which the device is to cut.
			c := p.mustDial(t, p.client, "udp", netip.AddrPort{}, empty)
			socketOption(t, c, unix.SOL_UDP, unix.UDP_SEGMENT, 1200)
			refused(t, c, make([]byte, 12000))
		}
	})
}

// The backend's host knows that nobody listens there.
func TestBackendRefuses(t *testing.T) {
	eachWay(t, func(t *testing.T, p pods, client, front, _ netip.AddrPort) {
		if _, err := p.dial(t, p.client, "tcp", netip.AddrPort{}, front); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("connect: %v, want %v", err, syscall.ECONNREFUSED)
		}
		for _, size := range []int{1, 100, 1400, 5000} {
			refused(t, p.mustDial(t, p.client, "udp", netip.AddrPort{}, front), make([]byte, size))
		}
	})
}

// A client that has gone is known to its backend, by the client's error.
func TestClientRefuses(t *testing.T) {
	eachWay(t, func(t *testing.T, p pods, client, front, behind netip.AddrPort) {
		var listening *net.UDPConn
		p.within(t, p.backend, func(*netlink.Handle) (err error) {
			listening, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(behind))
			return err
		})
		defer listening.Close()
		if err := listening.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		c := p.mustDial(t, p.client, "udp", client, front)
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		_, from, err := listening.ReadFromUDPAddrPort(make([]byte, 16))
		if err != nil || from.Addr().Unmap() != client.Addr() {
			t.Fatalf("the backend was asked by %v (%v), want %v", from, err, client)
		}
		c.Close()
		listening.Close()
		refused(t, p.mustDial(t, p.backend, "udp", behind, client), []byte("answer"))
	})
}

// pattern is data that tells when a part of it is lost or misplaced.
func pattern(n int) []byte {
	b := make([]byte, n+4)
	for i := 0; i < n; i += 4 {
		binary.BigEndian.PutUint32(b[i:], uint32(i)*2654435761)
	}
	return b[:n]
}

func TestLongDatagrams(t *testing.T) {
	eachWay(t, func(t *testing.T, p pods, client, front, behind netip.AddrPort) {
		p.answering(t, behind, func(c *net.UDPConn, data []byte, from netip.AddrPort) {
			c.WriteToUDPAddrPort(append(data, "back"...), from)
		})
		c := p.mustDial(t, p.client, "udp", netip.AddrPort{}, front)
		for _, size := range []int{10, 1472, 1473, 3000, 9000, 60000} {
			want := pattern(size)
			if _, err := c.Write(want); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 1<<16)
			n, err := c.Read(got)
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			if !bytes.Equal(got[:n], append(want, "back"...)) {
				t.Errorf("%d bytes came back as %d others", size, n)
			}
		}
	})
}

// A narrow way behind the host is found out by the client's socket.
func TestPathMTU(t *testing.T) {
	eachWay(t, func(t *testing.T, p pods, client, front, behind netip.AddrPort) {
		const narrow = 1300
		p.within(t, p.host, func(h *netlink.Handle) error {
			l, err := h.LinkByName("backend")
			if err != nil {
				return err
			}
			return h.LinkSetMTU(l, narrow)
		})
		// Through the stack: what goes straight to a pod isn't measured.
		var e Endpoint
		if err := p.Maps["endpoints"].Lookup(AddressOf(behind.Addr()), &e); err != nil {
			t.Fatal(err)
		}
		e.Attach = Macvlan
		p.put("endpoints", AddressOf(behind.Addr()), e)
		p.answering(t, behind, func(c *net.UDPConn, data []byte, from netip.AddrPort) {
			c.WriteToUDPAddrPort([]byte("ok"), from)
		})
		c := p.mustDial(t, p.client, "udp", netip.AddrPort{}, front)
		header := 28
		level, discover, do, mtu := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO, unix.IP_MTU
		if client.Addr().Is6() {
			header = 48
			level, discover, do, mtu = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO, unix.IPV6_MTU
		}
		socketOption(t, c, level, discover, do)
		if _, err := c.Write(make([]byte, 1400)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 16)); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("%v, want %v", err, syscall.EMSGSIZE)
		}
		raw, err := c.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			if got, err := unix.GetsockoptInt(int(fd), level, mtu); got != narrow || err != nil {
				t.Errorf("the path's MTU is %d (%v), want %d", got, err, narrow)
			}
		})
		if _, err := c.Write(make([]byte, narrow-header)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 16)); err != nil {
			t.Errorf("the largest datagram that fits: %v", err)
		}
	})
}
