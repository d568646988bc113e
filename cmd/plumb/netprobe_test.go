package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/kindtest"
)

// netprobe is the command that scripts test reachability with:
//
//	netprobe ping ADDR...             one echo each, tried for some seconds
//	netprobe serve PORT COMMAND...    echoes TCP and UDP while the command runs, and exits like it
//	netprobe talk tcp|udp ADDR:PORT...
//	netprobe web PORT COMMAND...      answers by HTTP while the command runs, and exits like it
//	netprobe names ADDR NAME=ADDR,... COMMAND...  answers at port 53, and exits like the command
//	netprobe answer NAME PORT COMMAND...  answers TCP and UDP with its name while the command runs, and exits like it
//	netprobe meet STEP...            asks such servers, see meet
//	netprobe stay STEP...            goes on asking them, see stay
//	netprobe stream STEP...          goes on asking them without a pause, see stream
func netprobe() {
	var err error
	switch os.Args[1] {
	case "ping":
		err = each(os.Args[2:], ping)
	case "serve":
		err = serve(os.Args[2], os.Args[3:])
	case "web":
		err = web(os.Args[2], os.Args[3:])
	case "names":
		err = names(os.Args[2], os.Args[3], os.Args[4:])
	case "answer":
		err = answerWhile(os.Args[2], os.Args[3], os.Args[4:])
	case "meet":
		err = meet(os.Args[2:])
	case "stay":
		err = stay(os.Args[2:])
	case "stream":
		err = stream(os.Args[2:])
	case "talk":
		err = each(os.Args[3:], func(addr string) error { return talk(os.Args[2], addr) })
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "netprobe:", err)
		os.Exit(1)
	}
}

func each(addrs []string, try func(string) error) error {
	for _, a := range addrs {
		if err := try(a); err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
		fmt.Println(a, "answers")
	}
	return nil
}

func ping(text string) error {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return err
	}
	network, request, reply := "ip4:icmp", byte(8), byte(0)
	if addr.Is6() {
		network, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	var last error
	for seq := range byte(4) {
		c, err := net.Dial(network, text)
		if err != nil {
			return err
		}
		last = echo(c.(*net.IPConn), request, reply, seq)
		c.Close()
		if last == nil {
			return nil
		}
	}
	return last
}

func echo(c *net.IPConn, request, reply, seq byte) error {
	msg := []byte{request, 0, 0, 0, byte(os.Getpid() >> 8), byte(os.Getpid()), 0, seq, 'p', 'l'}
	if request == 8 { // the kernel sums up ICMPv6 by itself
		var sum uint32
		for i := 0; i < len(msg); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(msg[i:]))
		}
		sum = sum>>16 + sum&0xffff
		binary.BigEndian.PutUint16(msg[2:], ^uint16(sum+sum>>16))
	}
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := c.Write(msg); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := c.ReadFrom(buf) // Read would leave the IPv4 header in
		if err != nil {
			return err
		}
		if n >= len(msg) && buf[0] == reply && bytes.Equal(buf[4:n], msg[4:]) {
			return nil
		}
	}
}

func serve(port string, argv []string) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	// An answer of a socket bound to all addresses leaves with the right one only if the peer is on one link; it is here.
	u, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			u.WriteTo(buf[:n], from)
		}
	}()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// web answers that all is well, but for /broken.
func web(port string, argv []string) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, "all is well")
	}))
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// names knows one name.
func names(addr, entry string, argv []string) error {
	c, err := net.ListenPacket("udp", net.JoinHostPort(addr, "53"))
	if err != nil {
		return err
	}
	name, list, _ := strings.Cut(entry, "=")
	known := map[string][]netip.Addr{}
	for _, text := range strings.Split(list, ",") {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}
		known[name] = append(known[name], a)
	}
	go kindtest.ServeNames(c, known)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

func talk(network, addr string) error {
	c, err := net.DialTimeout(network, addr, 3*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
		return fmt.Errorf("answer %q: %w", buf, err)
	}
	return nil
}

// asNobody is the command that runs plumb without any privilege.
func asNobody() {
	runtime.LockOSThread()
	for _, err := range []error{syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534)} {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	// A change of user makes /proc/self root's; the evaluator starts from there.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Args = os.Args[1:]
	os.Exit(run())
}
