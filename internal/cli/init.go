package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/examples"
	"plumb.internal/plumb/schema"
)

// Init writes a starter repository, or an example, into the folder. It never overwrites a file.
func (o *Options) Init(ctx context.Context, example string) error {
	files := map[string][]byte{}
	maps.Copy(files, schema.Vendored())
	if example != "" {
		own, err := examples.Files(example)
		if err != nil {
			return err
		}
		maps.Copy(files, own)
	} else {
		text, err := starter()
		if err != nil {
			return err
		}
		files["plumb.cue"] = text
	}
	if err := writeNew(o.Dir, files); err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(files))
	if example == "" {
		if err := o.writeAddresses(ctx); err != nil {
			return err
		}
		names = append(names, compiler.AddressFile)
	}
	if err := o.wrote(names...); err != nil || o.JSON() {
		return err
	}
	_, err := fmt.Fprintln(o.Out, "next: plumb validate, then plumb lab up to try it, or plumb plan on the machine itself")
	return err
}

// wrote names the files that a command wrote into the repository.
func (o *Options) wrote(names ...string) error {
	var paths []string
	for _, name := range names {
		paths = append(paths, filepath.Join(o.Dir, name))
	}
	if o.JSON() {
		return o.writeJSON(struct {
			FormatVersion string   `json:"format_version"`
			Files         []string `json:"files"`
		}{"1", paths})
	}
	for _, path := range paths {
		if _, err := fmt.Fprintf(o.Out, "wrote %s\n", path); err != nil {
			return err
		}
	}
	return nil
}

// writeNew writes files below dir, all of them or, if one is there already, none.
func writeNew(dir string, files map[string][]byte) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return fmt.Errorf("%s is there already: nothing was written", filepath.Join(dir, name))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look for files: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return fmt.Errorf("write file: %w", err)
		}
		_, err = f.Write(files[name])
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}

// Allocate writes the addresses of pods that name none into the repository.
func (o *Options) Allocate(ctx context.Context) error {
	if err := o.writeAddresses(ctx); err != nil {
		return err
	}
	return o.wrote(compiler.AddressFile)
}

func (o *Options) writeAddresses(ctx context.Context) error {
	path := filepath.Join(o.Dir, compiler.AddressFile)
	previous, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read addresses: %w", err)
	}
	src, err := o.Load(ctx)
	if err != nil {
		return err
	}
	defer src.Close()
	text, err := compiler.Allocate(src.Config, previous)
	if err != nil {
		return src.Locate(err)
	}
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return fmt.Errorf("write addresses: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write addresses: %w", err)
	}
	return nil
}

// starter is the plumb.cue of a new repository, made for this machine.
func starter() ([]byte, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("read host name: %w", err)
	}
	uplink, address := uplinkOfHost()
	if address != "" {
		address = fmt.Sprintf("\taddresses: [%q]\n", address)
	}
	host, _, _ = strings.Cut(host, ".")
	return fmt.Appendf(nil, `package plumb

// A node is one machine. The commands pick the one that has this machine's host name.
nodes: %q: {
	// Devices that lead out of the machine; the first one routes. plumb never touches a device that isn't named.
	uplinks: [%q]
	// How other machines reach this one.
%s	// Where pods have their addresses from.
	podCIDRs: [%q, "fd00:10::/64"]
}

// A pod is a network namespace, /run/netns/NAME, with an interface eth0. Addresses that are left out are given from the
// podCIDRs; "plumb allocate" writes them into addresses.cue.
pods: {
	web: {}
	// Other fields of a pod:
	//   attach: "veth"             auto | veth | bridge | macvlan | ipvlan-l2 | ipvlan-l3 | netkit
	//   addresses: ["10.0.0.10"]
	//   mtu: 1500
	//   sysctls: "net.ipv4.tcp_keepalive_time": "60"
	client: attach: "veth"
}
`, host, uplink, address, freePodCIDR()), nil
}

// uplinkOfHost is the device of the IPv4 default route and its first address.
func uplinkOfHost() (device, address string) {
	device = "eth0"
	f, err := os.Open("/proc/net/route")
	if err != nil {
		return device, ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if w := strings.Fields(lines.Text()); len(w) > 7 && w[1] == "00000000" && w[7] == "00000000" {
			device = w[0]
			break
		}
	}
	iface, err := net.InterfaceByName(device)
	if err != nil {
		return device, ""
	}
	addrs, err := iface.Addrs()
	if err != nil {
		return device, ""
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			return device, p.Addr().String()
		}
	}
	return device, ""
}

// freePodCIDR is an IPv4 range that this machine has no address in.
func freePodCIDR() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "10.0.0.0/24"
	}
	for i := range 256 {
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 24)
		if !slices.ContainsFunc(addrs, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && p.Masked().Overlaps(cidr)
		}) {
			return cidr.String()
		}
	}
	return "10.0.0.0/24"
}
