package compiler

import (
	"strings"

	"plumb.internal/plumb/schema"
)

// refuseUnbuilt refuses the fields whose feature this version doesn't have. A field that says what happens anyway passes:
// "auto", native routing, traffic policy "cluster".
func refuseUnbuilt(f *fleet) {
	cfg, ps := f.cfg, &f.problems
	refuse := func(path string) {
		name := path[strings.LastIndexByte(path, '.')+1:]
		ps.add(path, "", "%s isn't supported by this version of plumb; remove the field", name)
	}
	unbuiltRouting("routing", &cfg.Routing, refuse)
	unbuiltPod("podDefaults", &cfg.PodDefaults, refuse)
	for _, n := range f.nodes {
		unbuiltRouting(n.path+".routing", &n.Routing, refuse)
		unbuiltPod(n.path+".podDefaults", &n.PodDefaults, refuse)
	}
	for _, p := range f.pods {
		unbuiltPod(p.path, &p.Pod, refuse)
	}
	for _, s := range f.services {
		s.unbuilt(refuse)
	}
}

func (s *service) unbuilt(refuse func(string)) {
	for _, p := range s.ports {
		if p.NodePort != 0 {
			refuse(field(s.path+".ports", p.name) + ".nodePort")
		}
	}
	for _, f := range []struct {
		name  string
		asked bool
	}{
		{"externalAddresses", len(s.ExternalAddresses) > 0},
		{"sourceRanges", len(s.SourceRanges.Allow)+len(s.SourceRanges.Deny) > 0},
		{"forwarding", asks(s.Forwarding)},
		{"externalTrafficPolicy", s.ExternalTrafficPolicy == "local"},
		{"internalTrafficPolicy", s.InternalTrafficPolicy == "local"},
	} {
		if f.asked {
			refuse(s.path + "." + f.name)
		}
	}
}

func unbuiltPod(path string, p *schema.Pod, refuse func(string)) {
	if len(p.HostPorts) > 0 {
		refuse(path + ".hostPorts")
	}
	if len(p.DNS.Servers)+len(p.DNS.Search) > 0 {
		refuse(path + ".dns")
	}
}

func unbuiltRouting(path string, r *schema.Routing, refuse func(string)) {
	for _, f := range []struct {
		name  string
		asked bool
	}{
		{"mode", r.Mode != "" && r.Mode != "native"},
		{"directNodeRoutes", r.DirectNodeRoutes != nil},
		{"nodePortRange", r.NodePortRange != ""},
	} {
		if f.asked {
			refuse(path + "." + f.name)
		}
	}
}
