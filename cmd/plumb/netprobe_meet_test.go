package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// answer is a server over TCP and UDP that says its name, and who asked, before it repeats what it was sent.
func answer(name, port string) (stop func(), err error) {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return nil, err
	}
	u, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	reply := func(from net.Addr, text string) []byte {
		at := netip.MustParseAddrPort(from.String())
		return fmt.Appendf(nil, "%s %s %s", name, at.Addr().Unmap(), text)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for in := bufio.NewReader(c); ; {
					line, err := in.ReadString('\n')
					if err != nil {
						return
					}
					if _, err := c.Write(reply(c.RemoteAddr(), line)); err != nil {
						return
					}
				}
			}()
		}
	}()
	go func() {
		for buf := make([]byte, 1<<16); ; {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(reply(from, string(buf[:n])), from) // the client says what it misses
		}
	}()
	return func() { l.Close(); u.Close() }, nil
}

// answerWhile answers while a command runs, and exits like it.
func answerWhile(name, port string, argv []string) error {
	stop, err := answer(name, port)
	if err != nil {
		return err
	}
	defer stop()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// meet carries out steps "[N*]HOW ADDR:PORT WANT [SOURCE]". HOW is one of
//
//	tcp             connects, asks, and asks the kernel for its peer's name, which has to be ADDR:PORT
//	udp             likewise, by a connected socket
//	sendto          by an unconnected socket, whose answer has to come from ADDR:PORT
//	big, bigsendto  likewise, with datagrams that go in fragments
//	mapped-...      one of these over IPv4, by a socket of IPv6
//
// WANT is who answers N times: "a|b" any of these, "=a|b" the same one each time, "a+b" each at least once,
// "a:6+b:2" as often as that. "refused" and "barred" are for nobody: the error ECONNREFUSED, or EPERM, within a second
// (of one of three datagrams, as a kernel limits the errors that it sends),
// and "silent" is for no answer within a quarter of it.
// SOURCE is the address that the server sees.
func meet(steps []string) error {
	var failed []error
	for _, s := range steps {
		if err := meetOne(s); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", s, err))
		}
	}
	return errors.Join(failed...)
}

func meetOne(step string) error {
	f := strings.Fields(step)
	if len(f) < 3 || len(f) > 4 {
		return errors.New("want HOW ADDR:PORT WANT [SOURCE]")
	}
	times, how := 1, f[0]
	if n, rest, ok := strings.Cut(how, "*"); ok {
		var err error
		if times, err = strconv.Atoi(n); err != nil {
			return err
		}
		how = rest
	}
	at, err := netip.ParseAddrPort(f[1])
	if err != nil {
		return err
	}
	want := f[2]
	got := map[string]int{}
	for i := range times {
		start := time.Now()
		patience := 3 * time.Second
		if want == "silent" {
			patience = time.Second / 4
		}
		refusal := map[string]error{"refused": unix.ECONNREFUSED, "barred": unix.EPERM}[want]
		if refusal != nil && !strings.HasSuffix(how, "tcp") {
			patience = time.Second
		}
		name, source, err := ask(how, at, patience)
		for again := 0; refusal != nil && errors.Is(err, unix.EAGAIN) && again < 2; again++ {
			start = time.Now()
			name, source, err = ask(how, at, patience)
		}
		took := time.Since(start)
		switch {
		case refusal != nil && err == nil:
			return fmt.Errorf("%s answers", name)
		case refusal != nil && (!errors.Is(err, refusal) || took > time.Second):
			return fmt.Errorf("ask %d of %d: %w after %s", i+1, times, err, took)
		case refusal != nil:
			name = want
		case want == "silent" && err == nil:
			return fmt.Errorf("%s answers", name)
		case want == "silent" && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINPROGRESS):
			return err
		case want == "silent":
			name = want
		case err != nil:
			return fmt.Errorf("ask %d of %d: %w after %s", i+1, times, err, took)
		case len(f) == 4 && source != f[3]:
			return fmt.Errorf("%s saw %s", name, source)
		}
		got[name]++
	}
	var said []string
	for _, name := range slices.Sorted(maps.Keys(got)) {
		said = append(said, fmt.Sprintf("%s:%d", name, got[name]))
	}
	fmt.Println(step, "->", strings.Join(said, "+"))
	names, same := strings.CutPrefix(want, "=")
	ok := false
	switch {
	case strings.Contains(names, ":"):
		ok = strings.Join(said, "+") == names
	case strings.Contains(names, "+"):
		ok = slices.Equal(slices.Sorted(maps.Keys(got)), strings.Split(names, "+"))
	default:
		ok = len(got) == 1 || !same
		for name := range got {
			ok = ok && slices.Contains(strings.Split(names, "|"), name)
		}
	}
	if !ok {
		return fmt.Errorf("answers are of %s", strings.Join(said, "+"))
	}
	return nil
}

// ask asks once, and returns the server's name and whom it saw.
func ask(how string, at netip.AddrPort, patience time.Duration) (name, source string, err error) {
	s, err := open(how, at, patience, false)
	if err != nil {
		return "", "", err
	}
	defer s.Close()
	return s.ask()
}

// client is a socket that asks one server.
type client struct {
	fd     int
	stream bool
	at     netip.AddrPort
	dest   unix.Sockaddr // of each datagram; nil where the socket is connected
	big    bool
}

func (c *client) Close() { unix.Close(c.fd) }

// open makes a socket that asks the way meet says, and connects it; if it is to stay, by a port that the kernel gives nobody
// else.
func open(how string, at netip.AddrPort, patience time.Duration, stays bool) (_ *client, err error) {
	how, mapped := strings.CutPrefix(how, "mapped-")
	how, big := strings.CutPrefix(how, "big")
	var to unix.Sockaddr = &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	family, errorsFrom := unix.AF_INET6, [2]int{unix.IPPROTO_IPV6, unix.IPV6_RECVERR}
	if at.Addr().Is4() && !mapped {
		to = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
		family, errorsFrom = unix.AF_INET, [2]int{unix.IPPROTO_IP, unix.IP_RECVERR}
	}
	kind := unix.SOCK_DGRAM
	if how == "tcp" {
		kind = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	c := &client{fd: fd, stream: how == "tcp", at: at, big: big}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	tv := unix.NsecToTimeval(patience.Nanoseconds())
	for _, o := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} { // the latter holds for connect too
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, o, &tv); err != nil {
			return nil, err
		}
	}
	if stays {
		if err := bindAside(fd, family); err != nil {
			return nil, err
		}
	}
	switch how {
	case "tcp", "udp", "":
		// Go's own signals interrupt it.
		for err = unix.EINTR; errors.Is(err, unix.EINTR); err = unix.Connect(fd, to) {
		}
		if err != nil && !errors.Is(err, unix.EISCONN) {
			return nil, fmt.Errorf("connect: %w", err)
		}
	case "sendto":
		c.dest = to
		// Such a socket is told of refusals only if it asks for that.
		if err := unix.SetsockoptInt(fd, errorsFrom[0], errorsFrom[1], 1); err != nil {
			return nil, err
		}
		return c, nil
	default:
		return nil, fmt.Errorf("unknown way to ask %q", how)
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return nil, fmt.Errorf("getpeername: %w", err)
	}
	if addrOf(peer) != at {
		return nil, fmt.Errorf("the peer is called %s", addrOf(peer))
	}
	return c, nil
}

// bindAside binds a socket to a port below those that sockets get by themselves. A backend that is asked by way of a service
// and without it knows a client by its port, and no two.
func bindAside(fd, family int) error {
	for port := 20000; port < 20100; port++ {
		var own unix.Sockaddr = &unix.SockaddrInet6{Port: port}
		if family == unix.AF_INET {
			own = &unix.SockaddrInet4{Port: port}
		}
		if err := unix.Bind(fd, own); !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
	}
	return errors.New("no port of a hundred is free")
}

// ask sends a question, and returns the server's name and whom it saw.
func (c *client) ask() (name, source string, err error) {
	question := "hello\n"
	if c.big {
		question = strings.Repeat("0123456789abcde\n", 250)
	}
	return c.say(question)
}

// say is ask with a question of the caller's.
func (c *client) say(question string) (name, source string, err error) {
	if c.dest == nil {
		_, err = unix.Write(c.fd, []byte(question))
	} else {
		err = unix.Sendto(c.fd, []byte(question), 0, c.dest)
	}
	if err != nil {
		return "", "", fmt.Errorf("send: %w", err)
	}
	var said []byte
	for buf := make([]byte, 1<<16); ; {
		n, from, err := unix.Recvfrom(c.fd, buf, 0)
		if errors.Is(err, unix.EINTR) { // of Go's own signals
			continue
		}
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return "", "", fmt.Errorf("receive: %w", err)
		}
		said = append(said, buf[:n]...)
		if c.dest != nil && addrOf(from) != c.at {
			return "", "", fmt.Errorf("the answer came from %s", addrOf(from))
		}
		if !c.stream || strings.HasSuffix(string(said), "\n") {
			break
		}
	}
	name, rest, _ := strings.Cut(string(said), " ")
	source, echo, _ := strings.Cut(rest, " ")
	if echo != question {
		return "", "", fmt.Errorf("%s repeats %d bytes of %d otherwise", name, len(echo), len(question))
	}
	return name, source, nil
}

// stay opens clients, each "HOW ADDR:PORT", asks once, says "ready", and asks them again for every line that it reads.
// Each must be answered by the same server as before, else it is asked no more. It prints a line each time, "same" if all is well.
func stay(steps []string) error {
	clients := make([]*client, len(steps))
	names := make([]string, len(steps))
	for i, s := range steps {
		how, addr, _ := strings.Cut(s, " ")
		at, err := netip.ParseAddrPort(addr)
		if err != nil {
			return err
		}
		if clients[i], err = open(how, at, 3*time.Second, true); err == nil {
			names[i], _, err = clients[i].ask()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var failed []string
		for i, c := range clients {
			if c == nil {
				continue // said already
			}
			if name, _, err := c.ask(); err != nil {
				failed = append(failed, fmt.Sprintf("%s at %s: %v", steps[i], names[i], err))
				clients[i] = nil
			} else if name != names[i] {
				failed = append(failed, fmt.Sprintf("%s moved from %s to %s", steps[i], names[i], name))
				clients[i] = nil
			}
		}
		if len(failed) == 0 {
			failed = []string{"same"}
		}
		fmt.Println(strings.Join(failed, "; "))
	}
	return nil
}

func addrOf(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
