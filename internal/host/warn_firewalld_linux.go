package host

import (
	"encoding/xml"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// firewalld warns of a firewalld that has no zone for the pods: what belongs to none is rejected when it is forwarded. The
// zones are read from its files, those below /etc before those that come with it.
func (s *surroundings) firewalld() {
	if !s.running("firewalld") {
		return
	}
	zones := map[string]string{} // path by file name
	for _, dir := range []string{"usr/lib/firewalld/zones", "etc/firewalld/zones"} {
		found, _ := filepath.Glob(s.path(filepath.Join(dir, "*.xml")))
		for _, path := range found {
			zones[filepath.Base(path)] = path
		}
	}
	var sources []netip.Prefix
	for _, name := range slices.Sorted(maps.Keys(zones)) {
		var zone struct {
			Target string `xml:"target,attr"`
			Source []struct {
				Address string `xml:"address,attr"`
			} `xml:"source"`
		}
		b, err := os.ReadFile(zones[name])
		if err != nil || xml.Unmarshal(b, &zone) != nil || zone.Target != "ACCEPT" {
			continue
		}
		for _, source := range zone.Source {
			if p, err := netip.ParsePrefix(source.Address); err == nil {
				sources = append(sources, p.Masked())
			}
		}
	}
	var add []string
	for _, p := range s.pods {
		in := func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }
		if !slices.ContainsFunc(sources, in) {
			add = append(add, fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-source=%s", p.Masked()))
		}
	}
	if len(add) > 0 {
		s.say("firewalld runs and has no zone that accepts packets of pods; run: %s; firewall-cmd --reload", strings.Join(add, "; "))
	}
}
