package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Types of messages.
const (
	echoRequest4, echoReply4 = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// echo asks for an echo. The socket is a raw one: the kernel's own for this are nobody's unless a sysctl says so. It sees
// what others are answered too, so the message carries a number that nobody else has.
func echo(ctx context.Context, ns Namespace, to netip.Addr) error {
	protocol, request, reply := unix.IPPROTO_ICMP, byte(echoRequest4), byte(echoReply4)
	if to.Is6() {
		protocol, request, reply = unix.IPPROTO_ICMPV6, echoRequest6, echoReply6
	}
	c, err := dial(ctx, ns, unix.SOCK_RAW, protocol, netip.AddrPortFrom(to, 0))
	if err != nil {
		return err
	}
	defer c.Close()
	message := make([]byte, 24) // type, code, sum, identifier and sequence, then the rest of the number
	message[0] = request
	if _, err := rand.Read(message[4:]); err != nil {
		return err
	}
	if to.Is4() { // the kernel sums up ICMPv6 by itself
		binary.BigEndian.PutUint16(message[2:], checksum(message))
	}
	return ask(ctx, c, message, func(answer []byte) (bool, error) {
		return len(answer) >= len(message) && answer[0] == reply && bytes.Equal(answer[4:len(message)], message[4:]), nil
	})
}

// checksum is that of RFC 1071, of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum + sum>>16)
}
