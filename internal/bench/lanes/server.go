package lanes

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// What a connection's first byte asks for.
const (
	once = 'c' // this byte back, then the end
	echo = 'e' // every byte back
	sink = 's' // nothing back
	pour = 'p' // no end of bytes back
)

// serve answers one connection after the other.
func serve(port string) error {
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = setCubic(l)
	}
	if err == nil { // how long it may take to see that the input has ended
		err = unix.SetsockoptTimeval(l, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	}
	if err == nil { // connections come with their first byte, so that none is waited for while others have theirs
		err = unix.SetsockoptInt(l, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 5)
	}
	if err == nil {
		err = unix.Bind(l, &unix.SockaddrInet4{Port: n})
	}
	if err == nil {
		err = unix.Listen(l, 1024)
	}
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Println("ready")
	buf := make([]byte, 256<<10)
	for {
		c, err := raw(unix.SYS_ACCEPT4, uintptr(l), 0, 0, unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			in := []unix.PollFd{{Fd: 0, Events: unix.POLLIN}}
			if k, _ := unix.Poll(in, 0); k > 0 {
				return nil
			}
			continue
		case errors.Is(err, unix.ECONNABORTED):
			continue
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		}
		answerAll(c, buf)
		closeFD(c)
	}
}

// answerAll serves one connection to its end.
func answerAll(c int, buf []byte) {
	for asked := byte(0); ; {
		k, err := read(c, buf)
		if err != nil || k == 0 {
			return
		}
		if asked == 0 {
			asked = buf[0]
		}
		switch asked {
		case sink:
		case pour:
			for err == nil {
				_, err = send(c, buf)
			}
		default:
			_, err = send(c, buf[:k])
		}
		if err != nil || asked == once {
			return
		}
	}
}
