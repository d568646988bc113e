package resource_test

import (
	"testing"

	"plumb.internal/plumb/reconciler/resource"
)

func TestCPUs(t *testing.T) {
	for _, c := range []struct{ list, canonical, mask string }{
		{"", "", "00000000"},
		{"0", "0", "00000001"},
		{"3,0-1,1\n", "0-1,3", "0000000b"},
		{"0-31", "0-31", "ffffffff"},
		{"0-3,32,64-65", "0-3,32,64-65", "00000003,00000001,0000000f"},
	} {
		set, err := resource.ParseCPUs(c.list)
		if err != nil {
			t.Fatal(err)
		}
		if set.String() != c.canonical || set.Mask() != c.mask {
			t.Errorf("%q is %q, %q", c.list, set, set.Mask())
		}
		again, err := resource.ParseCPUMask(set.Mask())
		if err != nil || again.String() != c.canonical {
			t.Errorf("mask %q is read as %q, %v", set.Mask(), again, err)
		}
	}
	for mask, want := range map[string]string{"3": "0-1", "0": "", "1,00000000\n": "32"} {
		if set, err := resource.ParseCPUMask(mask); err != nil || set.String() != want {
			t.Errorf("mask %q is %q, %v", mask, set, err)
		}
	}
	for _, bad := range []string{"a", "1-", "-1", "3-1", "0-999999999999", "1,,2", "0x1"} {
		if set, err := resource.ParseCPUs(bad); err == nil {
			t.Errorf("list %q is %q", bad, set)
		}
	}
	for _, bad := range []string{"", "g", "123456789", "1,,1"} {
		if set, err := resource.ParseCPUMask(bad); err == nil {
			t.Errorf("mask %q is %q", bad, set)
		}
	}
	a, b := resource.CPUs{0, 1, 2, 5}, resource.CPUs{1, 5, 7}
	if got := a.And(b).String(); got != "1,5" {
		t.Errorf("%s and %s are %s", a, b, got)
	}
}
