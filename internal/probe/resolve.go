package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Resolver is how a namespace finds the addresses of names.
type Resolver struct {
	Servers []netip.Addr
	Search  []string
	Dots    int // names with fewer are looked for below Search first
}

// ReadResolver reads the resolv.conf of a network namespace: /etc/netns/NAME/resolv.conf where it has one of its own, else
// that of the host. The name of the root namespace is "".
func ReadResolver(etc, name string) (*Resolver, error) {
	files := []string{filepath.Join(etc, "resolv.conf")}
	if name != "" {
		files = append([]string{filepath.Join(etc, "netns", name, "resolv.conf")}, files...)
	}
	for _, path := range files {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		defer f.Close()
		r := &Resolver{Dots: 1}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			r.line(strings.Fields(lines.Text()))
		}
		if len(r.Servers) == 0 {
			return nil, fmt.Errorf("%s names no name server", path)
		}
		return r, nil
	}
	return nil, fmt.Errorf("there is no %s", strings.Join(files, " nor "))
}

func (r *Resolver) line(words []string) {
	if len(words) < 2 {
		return
	}
	switch words[0] {
	case "nameserver":
		if a, err := netip.ParseAddr(words[1]); err == nil {
			r.Servers = append(r.Servers, a)
		}
	case "search", "domain":
		r.Search = words[1:]
	case "options":
		for _, o := range words[1:] {
			if n, err := strconv.Atoi(strings.TrimPrefix(o, "ndots:")); err == nil && strings.HasPrefix(o, "ndots:") {
				r.Dots = n
			}
		}
	}
}

// candidates are the full names that a name may stand for, in the order in which they are asked for.
func (r *Resolver) candidates(name string) []string {
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	all := make([]string, 0, len(r.Search)+1)
	for _, domain := range r.Search {
		all = append(all, name+"."+strings.Trim(domain, ".")+".")
	}
	if strings.Count(name, ".") >= r.Dots {
		return append([]string{name + "."}, all...)
	}
	return append(all, name+".")
}

// Resolve asks the name servers for a name's addresses, by sockets of a namespace. The servers share the time that there is.
func (r *Resolver) Resolve(ctx context.Context, ns Namespace, name string, within time.Duration) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var last error
	for i, server := range r.Servers {
		deadline, _ := ctx.Deadline()
		part, cancel := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(len(r.Servers)-i))
		addrs, certain, err := r.ask(part, ns, server, name)
		cancel()
		if certain {
			return addrs, err
		}
		last = err
	}
	return nil, last
}

// ask asks one server for all that the name may stand for. Its answer is certain unless another server might know more.
func (r *Resolver) ask(ctx context.Context, ns Namespace, server netip.Addr, name string) (addrs []netip.Addr, certain bool, err error) {
	resolver := net.Resolver{
		PreferGo: true, // which asks what Dial connects to, whatever the host's own configuration says
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			kind := unix.SOCK_DGRAM
			if strings.HasPrefix(network, "tcp") {
				kind = unix.SOCK_STREAM
			}
			return dial(ctx, ns, kind, 0, netip.AddrPortFrom(server, 53))
		},
	}
	for _, full := range r.candidates(name) {
		addrs, err = resolver.LookupNetIP(ctx, "ip", full)
		if err == nil {
			for i := range addrs {
				addrs[i] = addrs[i].Unmap()
			}
			slices.SortFunc(addrs, netip.Addr.Compare)
			return slices.Compact(addrs), true, nil
		}
		if no, ok := errors.AsType[*net.DNSError](err); !ok || !no.IsNotFound {
			return nil, false, fmt.Errorf("resolve %s: no answer from name server %s", name, server)
		}
	}
	return nil, true, fmt.Errorf("resolve %s: name server %s knows no such name", name, server)
}
