package host

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/reconciler/resource"
)

// Surroundings says what else on the host would stop pods, or take away what plumb sets, each with the remedy. It only
// reads. podPrefixes are the ranges of pod addresses, uplinks the devices that lead out of the node, bridges those that
// pods sit on.
func (h *Host) Surroundings(ctx context.Context, podPrefixes []netip.Prefix, uplinks []string, bridges ...string) []string {
	s := surroundings{root: "/", pods: podPrefixes, uplinks: uplinks, bridges: bridges, netns: h.root.ID.Ino}
	links, err := h.root.Links()
	if err != nil {
		return []string{"can't look for what is in the way of pods: " + err.Error()}
	}
	for _, l := range links {
		if l.Group == resource.Group {
			s.ours = append(s.ours, l)
		}
	}
	s.policyRules(h.root)
	// The folders below /proc of a namespace are those of the thread.
	err = h.root.Do(func() error {
		s.nftables()
		s.iptables()
		s.reversePath()
		s.bridgeFilter()
		return ctx.Err()
	})
	if err != nil {
		s.say("can't look for what is in the way of pods: %v", err)
	}
	s.networkd()
	s.networkManager()
	s.firewalld()
	return s.warnings
}

// surroundings collects the warnings. Files are read below root, so that tests can make them up.
type surroundings struct {
	root             string
	pods             []netip.Prefix
	uplinks, bridges []string
	ours             []*Link
	netns            uint64 // inode of the node's root namespace
	drops            bool   // a forward chain has been warned of
	warnings         []string
}

func (s *surroundings) say(format string, args ...any) {
	s.warnings = append(s.warnings, fmt.Sprintf(format, args...))
}

func (s *surroundings) path(p string) string { return filepath.Join(s.root, p) }

// value reads a file of one line, "" where there is none.
func (s *surroundings) value(p string) string {
	data, _ := os.ReadFile(s.path(p))
	return strings.TrimSpace(string(data))
}

func (s *surroundings) family(is4 bool) (some bool) {
	return slices.ContainsFunc(s.pods, func(p netip.Prefix) bool { return p.Addr().Is4() == is4 })
}

// policyRules warns of rules without a selector by source that send packets to another table before the main one: VPNs
// and VRFs have them on purpose, and pods' packets go the same way.
func (s *surroundings) policyRules(root *NS) {
	rules, err := root.Rules()
	if err != nil {
		s.say("can't read the routing rules: %v", err)
		return
	}
	for _, r := range rules {
		src := Prefix(r.Src)
		if r.Protocol == unix.RTPROT_KERNEL || r.Protocol == resource.Protocol || r.Priority >= 32766 || src.Bits() > 0 ||
			r.Table == unix.RT_TABLE_MAIN || r.Table == unix.RT_TABLE_LOCAL || r.IifName != "" || r.OifName != "" ||
			(r.Mark != 0 && !r.Invert) || !s.family(r.Family == unix.AF_INET) {
			continue
		}
		where := fmt.Sprintf("table %d", r.Table)
		if r.Table == 0 {
			where = "an action of its own"
		}
		s.say("routing rule %d sends packets of any source to %s before the main table is asked: packets of pods take that way too (ip rule show)",
			r.Priority, where)
	}
}

// reversePath warns of strict reverse path filters. The kernel takes the stricter number of the device's and "all": 1 is
// strict, 2 is loose and wins over 1.
func (s *surroundings) reversePath() {
	if !s.family(true) {
		return
	}
	all := s.value("proc/sys/net/ipv4/conf/all/rp_filter")
	for _, dev := range s.uplinks {
		own := s.value("proc/sys/net/ipv4/conf/" + dev + "/rp_filter")
		if max(all, own) != "1" {
			continue
		}
		from := fmt.Sprintf("net.ipv4.conf.%s.rp_filter = 1", dev)
		if own != "1" {
			from = "net.ipv4.conf.all.rp_filter = 1"
		}
		s.say("%s makes the reverse path filter of uplink %s strict: packets for pods that come in there while the way back leads elsewhere are dropped; set net.ipv4.conf.%s.rp_filter = 2",
			from, dev, dev)
	}
}

// bridgeFilter warns where frames between ports of a bridge go through a forward chain that drops.
func (s *surroundings) bridgeFilter() {
	if len(s.bridges) == 0 || !s.drops {
		return
	}
	for _, f := range []struct {
		is4  bool
		name string
	}{{true, "bridge-nf-call-iptables"}, {false, "bridge-nf-call-ip6tables"}} {
		if s.family(f.is4) && s.value("proc/sys/net/bridge/"+f.name) == "1" {
			s.say("net.bridge.%s = 1 sends frames between pods on bridge %s through the host's forward chains too, so they are dropped like what is forwarded; set it to 0 if no other software needs it",
				f.name, s.bridges[0])
		}
	}
}

// running reports whether a program of that name runs in the node's root namespace. A daemon of another namespace looks
// after other devices.
func (s *surroundings) running(name string) bool {
	dir, err := os.Open(s.path("proc"))
	if err != nil {
		return false
	}
	defer dir.Close()
	entries, _ := dir.Readdirnames(-1)
	for _, pid := range entries {
		if pid[0] < '0' || pid[0] > '9' || s.value("proc/"+pid+"/comm") != name {
			continue
		}
		target, err := os.Readlink(s.path("proc/" + pid + "/ns/net"))
		if err == nil && target == fmt.Sprintf("net:[%d]", s.netns) {
			return true
		}
	}
	return false
}

// networkd warns of a systemd-networkd that deletes the routes and rules of others whenever a link comes or goes.
func (s *surroundings) networkd() {
	if !s.running("systemd-network") { // the kernel keeps 15 letters of a name
		return
	}
	var missing []string
	for _, key := range []string{"ManageForeignRoutes", "ManageForeignRoutingPolicyRules"} {
		v := strings.ToLower(s.setting("systemd/networkd.conf", "Network", key))
		if !slices.Contains([]string{"no", "false", "off", "0", "n", "f"}, v) {
			missing = append(missing, key+"=no")
		}
	}
	if len(missing) > 0 {
		s.say("systemd-networkd runs and deletes routes and rules that it didn't make; write /etc/systemd/networkd.conf.d/50-plumb.conf with the lines \"[Network]\", \"%s\", then run: systemctl restart systemd-networkd",
			strings.Join(missing, `", "`))
	}
}

// setting reads a key of a configuration file of systemd's and its drop-ins; the last one said wins.
func (s *surroundings) setting(file, section, key string) (value string) {
	layers := []string{"etc", "run", "usr/local/lib", "usr/lib"}
	dropIns := map[string]string{} // file name: path of the layer that counts
	for _, layer := range slices.Backward(layers) {
		paths, _ := filepath.Glob(s.path(filepath.Join(layer, file+".d", "*.conf")))
		for _, p := range paths {
			dropIns[filepath.Base(p)] = p
		}
	}
	var files []string
	for _, layer := range layers {
		p := s.path(filepath.Join(layer, file))
		if _, err := os.Stat(p); err == nil {
			files = append(files, p)
			break
		}
	}
	var names []string
	for name := range dropIns {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		files = append(files, dropIns[name])
	}
	for _, p := range files {
		if v, ok := iniValue(p, section, key); ok {
			value = v
		}
	}
	return value
}

// iniValue returns the last value of a key in a section of an INI file.
func iniValue(path, section, key string) (value string, ok bool) {
	f, err := os.Open(path)
	if err != nil {
		return "", false
	}
	defer f.Close()
	in := ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			in = line[1 : len(line)-1]
			continue
		}
		k, v, isPair := strings.Cut(line, "=")
		if isPair && in == section && strings.TrimSpace(k) == key {
			value, ok = strings.TrimSpace(v), true
		}
	}
	return value, ok
}

// networkManager warns of a NetworkManager that looks after devices of ours: it takes addresses and routes away.
func (s *surroundings) networkManager() {
	if !s.running("NetworkManager") {
		return
	}
	var names []string
	for _, l := range s.ours {
		if v, _ := iniValue(s.path(fmt.Sprintf("run/NetworkManager/devices/%d", l.Index)), "device", "managed"); v == "true" {
			names = append(names, l.Name)
		}
	}
	if len(names) == 0 {
		return
	}
	slices.SortFunc(names, cmp.Compare)
	s.say("NetworkManager manages plumb's devices (%s); write /etc/NetworkManager/conf.d/50-plumb.conf with the lines \"[keyfile]\", \"unmanaged-devices+=%s\", then run: nmcli general reload",
		strings.Join(names, ", "), "interface-name:"+strings.Join(names, ";interface-name:"))
}
