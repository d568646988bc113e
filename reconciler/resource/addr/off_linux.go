package addr

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"plumb.internal/plumb/internal/host"
)

// switchedOff finds where IPv6 addresses are wanted and somebody has switched IPv6 off: in the root namespace, which leads
// to the pods that have them, and in adopted namespaces. New devices take the default; in namespaces that plumb makes, it is
// the kernel's.
func switchedOff(h *host.Host, wanted []Addr) (off []Addr, err error) {
	seen := map[string]bool{}
	for _, w := range wanted {
		if ip := w.Prefix.Addr(); !ip.Is6() || ip.IsLinkLocalUnicast() {
			continue
		}
		for _, name := range []string{"", w.NetNS} {
			if seen[name] || name != "" && !h.Adopted(name) {
				continue
			}
			seen[name] = true
			ns, err := h.NS(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // the pod waits
			}
			var value []byte
			if err == nil {
				err = ns.Do(func() (err error) {
					value, err = os.ReadFile("/proc/sys/" + strings.ReplaceAll(disableIPv6, ".", "/"))
					return err
				})
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			if strings.TrimSpace(string(value)) == "1" {
				off = append(off, Addr{NetNS: name, Trouble: disableIPv6})
			}
		}
	}
	return off, nil
}
