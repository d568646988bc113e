package features

import (
	"slices"
	"strings"
	"testing"
)

// The kernel always has the default of every namespace, reno, and pods may always have it.
func TestCongestion(t *testing.T) {
	c := congestion()
	if c == nil {
		t.Fatal("the kernel doesn't tell")
	}
	for _, name := range c.Allowed {
		if !slices.Contains(c.Available, name) {
			t.Errorf("pods may have %s, which isn't among %v", name, c.Available)
		}
	}
	if !slices.Contains(c.Available, "reno") || !slices.Contains(c.Allowed, "reno") {
		t.Errorf("available %v, allowed %v", c.Available, c.Allowed)
	}
}

func TestSysctlsThere(t *testing.T) {
	there := sysctls()
	if !slices.Contains(there, "net.ipv4.tcp_rmem") {
		t.Errorf("only %v", there)
	}
	for _, key := range there {
		if !slices.Contains(Sysctls, key) {
			t.Errorf("%s is there unasked", key)
		}
	}
}

func TestBuiltPreempt(t *testing.T) {
	for banner, want := range map[string]string{
		"#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1":   "",
		"#1 SMP PREEMPT Debian 4.19.235-1":           "full",
		"#1 SMP PREEMPT_RT Debian 6.1.0-1":           "rt",
		"#1 SMP Debian 4.19.235-1 (2022-03-17)":      "",
		"#1 SMP PREEMPT_LAZY Mon Jan 1 00:00:00 UTC": "lazy",
	} {
		if got := builtPreempt(strings.Fields(banner)); got != want {
			t.Errorf("%q is %q", banner, got)
		}
	}
}
