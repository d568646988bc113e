package resource_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/addr"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/neigh"
	"plumb.internal/plumb/reconciler/resource/netns"
	"plumb.internal/plumb/reconciler/resource/route"
	"plumb.internal/plumb/reconciler/resource/rule"
	"plumb.internal/plumb/reconciler/resource/sysctl"
)

// example has one of everything that a plan can hold.
func example() *resource.Plan {
	eth0 := link.For("web", "eth0")
	a := addr.Addr{NetNS: "web", Dev: "eth0", Prefix: netip.MustParsePrefix("10.0.0.10/32"), Link: eth0}
	before := link.Link{NetNS: "web", Name: "eth0", Type: link.Veth, MTU: 1500}
	after := link.Link{NetNS: "web", Name: "eth0", Type: link.Macvlan, Mode: "bridge", MTU: 1500, Parent: "eth0"}
	return &resource.Plan{
		Node: "edge-1", Kernel: "6.18.5",
		Changes: []resource.Change{
			{ID: eth0, Action: resource.Replace, Reason: "can't change in place: type veth -> macvlan", Disruption: resource.DisruptsPod,
				Fields: []resource.Field{{Name: "type", Before: "veth", After: "macvlan"}}, Before: before, After: after},
			{ID: a.ID(), Action: resource.Replace, Reason: "re-created with link web/eth0", Disruption: resource.DisruptsPod,
				Before: a, After: a, With: &eth0},
		},
		Conflicts: []resource.Conflict{{ID: a.ID(), Foreign: "addr 10.0.0.10/32 dev docker0", Owner: "protocol static", Fix: "remove it"}},
		Choices: []resource.Choice{{Subject: "pods.web.attach", Wanted: "auto", Chosen: "macvlan", Reason: "netkit not supported"},
			{Subject: "pods.db.attach", Wanted: "veth", Chosen: "veth", Reason: "set"}},
		Warnings: []string{"pod db waits for /proc/4242/ns/net"},
	}
}

// TestText has a whole plan as people read it.
func TestText(t *testing.T) {
	var b bytes.Buffer
	if err := example().WriteText(&b, resource.TextOptions{}); err != nil {
		t.Fatal(err)
	}
	want := `pod web
  -/+ link eth0@eth0 type macvlan mode bridge mtu 1500  [cuts one pod briefly]  # can't change in place
        type: veth -> macvlan
  -/+ addr 10.0.0.10/32 dev eth0  [cuts one pod briefly]  # re-created with link web/eth0

conflicts: somebody else's objects are in the way, nothing is touched while they are there
  ! addr web/10.0.0.10/32 dev eth0
    in the way: addr 10.0.0.10/32 dev docker0 (protocol static)
    fix: remove it

choices
  pods.web.attach: auto -> macvlan: netkit not supported
  pods.db.attach: veth: set

warning: pod db waits for /proc/4242/ns/net

plan: 0 to create, 0 to update, 2 to replace, 0 to delete; nothing will be touched: conflicts: 1
2 of them disrupt; apply needs --allow-disruption
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("text (-want +got):\n%s", d)
	}
	b.Reset()
	if err := (&resource.Plan{}).WriteText(&b, resource.TextOptions{}); err != nil || b.String() != "no changes: the host is as the files say\n" {
		t.Errorf("empty plan: %q, %v", b.String(), err)
	}
}

// TestTextNarrow wraps at the width, loses no word, and with colours differs in the colours alone.
func TestTextNarrow(t *testing.T) {
	words := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	var wide, narrow, colored bytes.Buffer
	for b, opt := range map[*bytes.Buffer]resource.TextOptions{&wide: {}, &narrow: {Width: 60}, &colored: {Width: 60, Color: true}} {
		if err := example().WriteText(b, opt); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(words(wide.String()), words(narrow.String())); d != "" {
		t.Errorf("words differ:\n%s", d)
	}
	for line := range strings.Lines(narrow.String()) {
		if len(strings.TrimSuffix(line, "\n")) > 60 {
			t.Errorf("longer than 60 columns: %q", line)
		}
	}
	plain := colored.String()
	for _, code := range []string{"0", "1", "2", "31", "32", "33", "36", "1;31"} {
		plain = strings.ReplaceAll(plain, "\x1b["+code+"m", "")
	}
	if !strings.Contains(colored.String(), "\x1b[33m") {
		t.Error("no colours")
	}
	if d := cmp.Diff(narrow.String(), plain); d != "" {
		t.Errorf("colours change more than colours:\n%s", d)
	}
}

// TestJSON has the keys that scripts rely on.
func TestJSON(t *testing.T) {
	p := example()
	p.Changes = p.Changes[1:]
	var b bytes.Buffer
	if err := p.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	want := `{"format_version":"1","node":"edge-1","kernel":"6.18.5","changes":[{"id":{"kind":"addr","netns":"web",` +
		`"name":"10.0.0.10/32 dev eth0"},"action":"replace","reason":"re-created with link web/eth0","disruption":"pod","fields":[]}],` +
		`"conflicts":[{"id":{"kind":"addr","netns":"web","name":"10.0.0.10/32 dev eth0"},"foreign":"addr 10.0.0.10/32 dev docker0",` +
		`"owner":"protocol static","fix":"remove it"}],"choices":[{"subject":"pods.web.attach","wanted":"auto","chosen":"macvlan",` +
		`"reason":"netkit not supported"},{"subject":"pods.db.attach","wanted":"veth","chosen":"veth","reason":"set"}],` +
		`"warnings":["pod db waits for /proc/4242/ns/net"],"summary":{"create":0,"update":0,"replace":1,"delete":0}}`
	var compact bytes.Buffer
	if err := json.Compact(&compact, b.Bytes()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, compact.String()); d != "" {
		t.Errorf("JSON (-want +got):\n%s", d)
	}
	empty, err := json.Marshal(&resource.Plan{})
	if err != nil || strings.Contains(string(empty), "null") {
		t.Errorf("an empty plan: %s, %v", empty, err)
	}
}

// TestDescribe prints every kind as `ip` would.
func TestDescribe(t *testing.T) {
	for want, r := range map[string]resource.Resource{
		"netns web":                          netns.NetNS{Name: "web"},
		"netns db adopted /proc/4242/ns/net": netns.NetNS{Name: "db", Path: "/proc/4242/ns/net"},
		"link eth0 type veth mtu 1500 address 02:00:00:00:00:01 peer h1 master br0": link.Link{NetNS: "web", Name: "eth0", Type: link.Veth,
			MTU: 1500, MAC: "02:00:00:00:00:01", Peer: &link.Peer{Name: "h1", Master: "br0"}},
		"link eth0@up0 type ipvlan mode l3 mtu 1500": link.Link{Name: "eth0", Type: link.IPvlan, Mode: "l3", MTU: 1500, Parent: "up0"},
		"addr 10.0.0.10/32 dev eth0":                 addr.Addr{Dev: "eth0", Prefix: netip.MustParsePrefix("10.0.0.10/32")},
		"route default via 169.254.10.24 dev eth0 onlink": route.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Table: route.MainTable,
			Dev: "eth0", Gateway: netip.MustParseAddr("169.254.10.24"), OnLink: true},
		"route default via fe80::1 dev eth0 table 112": route.Route{Dst: netip.MustParsePrefix("::/0"), Table: 112, Metric: 1024,
			Dev: "eth0", Gateway: netip.MustParseAddr("fe80::1")},
		"route unreachable 10.0.0.0/24 metric 100": route.Route{Dst: netip.MustParsePrefix("10.0.0.0/24"), Table: route.MainTable,
			Unreachable: true, Metric: 100},
		"rule 1000: from 10.0.0.10/32 lookup 112": rule.Rule{Priority: 1000, Src: netip.MustParsePrefix("10.0.0.10/32"), Table: 112},
		"neigh 10.0.0.1 dev eth0 lladdr 02:00:00:00:00:01 nud permanent": neigh.Neigh{Dev: "eth0", IP: netip.MustParseAddr("10.0.0.1"),
			MAC: "02:00:00:00:00:01"},
		"neigh proxy 10.0.0.1 dev eth0":  neigh.Neigh{Dev: "eth0", IP: netip.MustParseAddr("10.0.0.1"), Proxy: true},
		"sysctl net.ipv4.ip_forward = 1": sysctl.Sysctl{Key: "net.ipv4.ip_forward", Value: "1"},
	} {
		if got := resource.Describe(r); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// People are shown the first fields of a change that has many; scripts get all of them.
func TestManyFields(t *testing.T) {
	var fields []resource.Field
	for i := range 12 {
		fields = append(fields, resource.Field{Name: fmt.Sprintf("field%02d", i), Before: "a", After: "b"})
	}
	p := &resource.Plan{Changes: []resource.Change{{ID: resource.ID{Kind: "nft", Name: "inet plumb"}, Action: resource.Update,
		Reason: resource.ReasonUpdate(fields), Fields: fields}}}
	var text bytes.Buffer
	if err := p.WriteText(&text, resource.TextOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := text.String(); !strings.Contains(s, "field09: a -> b") || strings.Contains(s, "field10") || !strings.Contains(s, "and 2 more") {
		t.Errorf("text:\n%s", s)
	}
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), `"field11"`) || !strings.HasSuffix(p.Changes[0].Reason, "field09 a -> b and 2 more") {
		t.Errorf("JSON: %s", data)
	}
}
