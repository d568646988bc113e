package kindtest

import (
	"errors"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// ServeNames answers questions for the addresses of names, until the connection is closed. It knows no others.
func ServeNames(c net.PacketConn, known map[string][]netip.Addr) error {
	buf := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		} else if err != nil {
			return err
		}
		var m dnsmessage.Message
		if err := m.Unpack(buf[:n]); err != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		addrs, ok := known[strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))]
		m = dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
		if !ok {
			m.RCode = dnsmessage.RCodeNameError
		}
		for _, a := range addrs {
			r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1}}
			switch {
			case q.Type == dnsmessage.TypeA && a.Is4():
				r.Body = &dnsmessage.AResource{A: a.As4()}
			case q.Type == dnsmessage.TypeAAAA && a.Is6():
				r.Body = &dnsmessage.AAAAResource{AAAA: a.As16()}
			default:
				continue
			}
			m.Answers = append(m.Answers, r)
		}
		answer, err := m.Pack()
		if err == nil {
			_, err = c.WriteTo(answer, from)
		}
		if err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
	}
}
