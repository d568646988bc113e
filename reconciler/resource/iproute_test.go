package resource_test

import (
	"testing"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/netns"
)

func TestIPCommand(t *testing.T) {
	s := resource.State{}
	if err := s.Add(netns.NetNS{Name: "web"}, netns.NetNS{Name: "db", Path: "/proc/42/ns/net"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		pod  string
		v6   bool
		want string
	}{
		{"", false, "ip"},
		{"", true, "ip -6"},
		{"web", true, "ip -6 -n web"},
		{"db", false, "nsenter --net=/proc/42/ns/net ip"},
		{"db", true, "nsenter --net=/proc/42/ns/net ip -6"},
	} {
		if got := s.IPCommand(c.pod, c.v6); got != c.want {
			t.Errorf("pod %q: %s, want %s", c.pod, got, c.want)
		}
	}
}
