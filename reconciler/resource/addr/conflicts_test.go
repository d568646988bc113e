package addr

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// pods stands for the resource of another kind that covers a podCIDR.
type pods struct{ prefix netip.Prefix }

func (p pods) ID() resource.ID                { return resource.ID{Kind: "route", Name: p.prefix.String()} }
func (p pods) After() []resource.ID           { return nil }
func (p pods) DiesWith() []resource.ID        { return nil }
func (p pods) Requires() []features.Feature   { return nil }
func (p pods) Origin() string                 { return "" }
func (p pods) PodRange() (netip.Prefix, bool) { return p.prefix, true }
func at(netns, prefix, dev string, pr int) Addr {
	return Addr{NetNS: netns, Prefix: netip.MustParsePrefix(prefix), Dev: dev, Protocol: pr}
}

func TestConflicts(t *testing.T) {
	desired := resource.State{}
	err := desired.Add(
		pods{netip.MustParsePrefix("10.0.0.0/24")}, pods{netip.MustParsePrefix("fd00:10::/64")},
		at("web", "10.0.0.10/32", "eth0", 0), at("web", "fd00:10::a/128", "eth0", 0),
		at("", "10.0.0.1/24", "plbr", 0), at("", "fe80::1/64", "plbr", 0),
		at("db", "10.1.0.5/32", "eth1", 0), at("db", "fd00:10::5/128", "eth1", 0),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		foreign Addr
		want    string
	}{
		{"pod's address on a device of the host", at("", "10.0.0.10/24", "eth0", 0),
			"addr web/10.0.0.10/32 dev eth0 | address 10.0.0.10/24 dev eth0 | not marked as plumb's"},
		{"the same, IPv6", at("", "fd00:10::a/64", "eth0", 2),
			"addr web/fd00:10::a/128 dev eth0 | address fd00:10::a/64 dev eth0 | protocol kernel_ra"},
		{"pod's address outside every range", at("", "10.1.0.5/24", "eth0", 186),
			"addr db/10.1.0.5/32 dev eth1 | address 10.1.0.5/24 dev eth0 | protocol 186"},
		{"gateway's address on another device", at("", "10.0.0.1/16", "eth0", 0),
			"addr 10.0.0.1/24 dev plbr | address 10.0.0.1/16 dev eth0 | not marked as plumb's"},
		{"an address inside a range", at("", "10.0.0.77/16", "eth0", 0),
			"route 10.0.0.0/24 | address 10.0.0.77/16 dev eth0 | not marked as plumb's"},
		{"equal address of another device in the same adopted namespace", at("db", "10.1.0.5/16", "eth0", 0),
			"addr db/10.1.0.5/32 dev eth1 | address 10.1.0.5/16 dev eth0 | not marked as plumb's"},
		{"equal address in another adopted namespace", at("cache", "10.0.0.10/32", "eth0", 0), ""},
		{"a link-local address on another link", at("", "fe80::1/64", "eth0", 0), ""},
		{"a link-local address on the same link", at("", "fe80::1/64", "plbr", 0),
			"addr fe80::1/64 dev plbr | address fe80::1/64 dev plbr | not marked as plumb's"},
		{"IPv6 is switched off", Addr{Trouble: disableIPv6},
			"addr db/fd00:10::5/128 dev eth1 | setting net.ipv6.conf.default.disable_ipv6 = 1 | not marked as plumb's"},
		{"IPv6 is switched off in an adopted namespace", Addr{NetNS: "web", Trouble: disableIPv6},
			"addr web/fd00:10::a/128 dev eth0 | setting net.ipv6.conf.default.disable_ipv6 = 1 in pod web | not marked as plumb's"},
		{"an address elsewhere", at("", "192.168.31.100/24", "eth0", 0), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, x := range (Ops{}).Conflicts(desired, []Addr{c.foreign}) {
				got = append(got, fmt.Sprintf("%s | %s | %s", x.ID, x.Foreign, x.Owner))
			}
			if diff := cmp.Diff(c.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("conflicts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDiff(t *testing.T) {
	want := at("web", "fd00:10::a/128", "eth0", 0)
	if fields, _ := (Ops{}).Diff(want, want); len(fields) != 0 {
		t.Errorf("equal addresses differ: %v", fields)
	}
	tentative := want
	tentative.Trouble = "tentative"
	fields, inPlace := (Ops{}).Diff(tentative, want)
	if len(fields) != 1 || fields[0].Before != "tentative" || inPlace {
		t.Errorf("a tentative address: %v, in place %v", fields, inPlace)
	}
}
