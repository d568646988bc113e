package compiler

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

// many is a node with n pods of one attachment, with an address of each family.
func many(n int, attach string) *schema.Config {
	cfg := &schema.Config{
		Nodes: map[string]schema.Node{"edge-1": {Uplinks: []string{"eth0"}, PodCIDRs: []string{"10.0.0.0/16", "fd00:10::/64"}}},
		Pods:  make(map[string]schema.Pod, n),
	}
	for i := range n {
		cfg.Pods[fmt.Sprintf("pod-%05d", i)] = schema.Pod{
			Attach:    attach,
			Addresses: []string{fmt.Sprintf("10.0.%d.%d", 1+i/250, 2+i%250), fmt.Sprintf("fd00:10::1:%x", i)},
		}
	}
	return cfg
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		for _, attach := range []string{"veth", "bridge", "auto"} {
			b.Run(fmt.Sprintf("%s/%d", attach, n), func(b *testing.B) {
				cfg := many(n, attach)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := Compile(cfg, "edge-1", acceptAll()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkStateAlone is the anchor: it puts what BenchmarkCompile/veth/10000 makes into a State again.
func BenchmarkStateAlone(b *testing.B) {
	c, err := Compile(many(10000, "veth"), "edge-1", acceptAll())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		s := make(resource.State, len(c.State))
		for _, r := range c.State {
			s[r.ID()] = r
		}
	}
}

func BenchmarkGiveAddresses(b *testing.B) {
	cfg := many(10000, "veth")
	for name, p := range cfg.Pods {
		p.Addresses = nil
		cfg.Pods[name] = p
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(cfg, "edge-1", acceptAll()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkServices compiles services of three backends each over 300 pods.
func BenchmarkServices(b *testing.B) {
	for _, n := range []int{10_000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			cfg := many(300, "veth")
			cfg.Services = make(map[string]schema.Service, n)
			cfg.Tuning.Maps.Services = 2 * n
			for i := range n {
				s := schema.Service{
					Addresses: []string{fmt.Sprintf("10.96.%d.%d", i>>8, i&255)},
					Ports:     map[string]schema.Port{"http": {Port: 80, TargetPort: 8080}},
				}
				for k := range 3 {
					s.Backends = append(s.Backends, schema.Backend{Pod: fmt.Sprintf("pod-%05d", (i+7*k)%300), Weight: &[]int{k + 1}[0]})
				}
				cfg.Services[fmt.Sprintf("svc-%05d", i)] = s
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Compile(cfg, "edge-1", acceptAll()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLiterals reads a thousand services in ten files, one of which was changed.
func BenchmarkLiterals(b *testing.B) {
	dir := b.TempDir()
	file := func(n, variant int) {
		var text strings.Builder
		text.WriteString("package plumb\n\nservices: {\n")
		for i := range 100 {
			fmt.Fprintf(&text, "\t\"svc-%d-%d\": {\n\t\taddresses: [\"10.96.%d.%d\"]\n\t\tports: http: {port: 80, targetPort: 8080}\n", n, i, n, i)
			fmt.Fprintf(&text, "\t\tbackends: [{address: \"172.16.%d.%d\"}, {address: \"172.17.%d.%d\"}, {address: \"172.18.%d.%d\"}]\n\t}\n", n, i, n, i, n, (i+variant)%250)
		}
		text.WriteString("}\n")
		writeFile(b, filepath.Join(dir, fmt.Sprintf("%d.cue", n)), []byte(text.String()))
	}
	for n := range 10 {
		file(n, 0)
	}
	var l Literals
	variant := 0
	b.ReportAllocs()
	for b.Loop() {
		variant++
		file(variant%10, variant)
		if c := l.Load(dir, nil); c == nil || len(c.Services) != 1000 {
			b.Fatal("not read as literals")
		}
	}
}
