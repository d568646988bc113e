package vmtest

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kernel is an unpacked kernel package.
type Kernel struct {
	Name    string // "6.1-amd64"
	Arch    string // as Go names it
	Image   string
	Config  string            // the options that it was built with
	Tools   string            // folder of programs for the guest, where those of this machine are for another architecture; else ""
	modules map[string]string // file by module name
}

// modules are loaded when a machine starts, where its kernel has them: everything that this project uses or probes. They
// are loaded up front because the guest has no modprobe for the kernel to call.
var modules = strings.Fields(`
	virtio_pci virtio_mmio virtio_net
	veth bridge br_netfilter macvlan ipvlan dummy ifb vxlan geneve 8021q bonding vrf wireguard tun
	nf_tables nft_ct nft_nat nft_masq nft_redir nft_reject nft_reject_ipv4 nft_reject_ipv6 nft_reject_inet nft_chain_nat nft_fib nft_fib_inet
	nft_numgen nft_hash nft_limit nft_log nft_counter nft_objref nft_set_hash nft_set_rbtree nft_tproxy nft_socket
	nf_conntrack nf_nat nf_conntrack_netlink ip_tables iptable_nat iptable_filter
	sch_fq sch_fq_codel sch_htb sch_tbf sch_ingress sch_netem sch_prio
	cls_bpf cls_u32 cls_flower cls_matchall act_bpf act_mirred act_gact
	tcp_bbr tcp_diag udp_diag inet_diag unix_diag netlink_diag ipv6 af_packet`)

// OpenKernel finds the image and the modules below dir, whose last element is the kernel's name.
func OpenKernel(dir string) (*Kernel, error) {
	k := &Kernel{Name: filepath.Base(dir), modules: map[string]string{}}
	_, arch, ok := strings.Cut(k.Name, "-")
	if !ok {
		return nil, fmt.Errorf("open kernel %s: expected a name such as 6.1-amd64", k.Name)
	}
	k.Arch = arch
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("open kernel %s: found %d images in its boot folder, expected one", k.Name, len(images))
	}
	k.Image = images[0]
	k.Config = strings.Replace(k.Image, "vmlinuz-", "config-", 1)
	if tools := filepath.Join(dir, "tools"); isDir(tools) {
		k.Tools = tools
	}
	err = filepath.WalkDir(filepath.Join(dir, "lib", "modules"), func(path string, d fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(path), ".ko"); ok && err == nil && d.Type().IsRegular() {
			k.modules[moduleName(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open kernel %s: %w", k.Name, err)
	}
	return k, nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// module is a module as it goes into the initramfs.
type module struct {
	name string
	data []byte
}

// load reads the named modules and all that they need, in an order in which they can be loaded. Names that the kernel
// doesn't have as modules are left out: it has them built in, or not at all.
func (k *Kernel) load(names []string) ([]module, error) {
	var order []module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = moduleName(name)
		path, ok := k.modules[name]
		if !ok || seen[name] {
			return nil
		}
		seen[name] = true
		data, err := readModule(path)
		if err != nil {
			return fmt.Errorf("read module %s: %w", name, err)
		}
		needs, err := moduleNeeds(data)
		if err != nil {
			return fmt.Errorf("read module %s: %w", name, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		order = append(order, module{name, data})
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func readModule(path string) ([]byte, error) {
	var unpack string
	switch filepath.Ext(path) {
	case ".ko":
		return os.ReadFile(path)
	case ".xz":
		unpack = "xz"
	case ".zst":
		unpack = "zstd"
	case ".gz":
		unpack = "gzip"
	default:
		return nil, fmt.Errorf("%s: unknown compression", path)
	}
	out, err := exec.Command(unpack, "-dc", path).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return out, err
}

// moduleNeeds reads the names of the modules that one needs or asks for from its .modinfo section, which Debian's
// packages have; the index files that modprobe uses are only made when a package is installed.
func moduleNeeds(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no .modinfo section")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	return modinfoNeeds(string(info)), nil
}

func modinfoNeeds(info string) []string {
	var needs []string
	for field := range strings.SplitSeq(info, "\x00") {
		if v, ok := strings.CutPrefix(field, "depends="); ok {
			needs = append(needs, strings.FieldsFunc(v, func(r rune) bool { return r == ',' })...)
		}
		if v, ok := strings.CutPrefix(field, "softdep="); ok {
			for _, w := range strings.Fields(v) {
				if !strings.HasSuffix(w, ":") { // "pre:" and "post:"
					needs = append(needs, w)
				}
			}
		}
	}
	return needs
}

// moduleName is the name as the kernel writes it: file names and references mix - and _.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }
