package host

import (
	"errors"
	"io/fs"
	"testing"
)

func TestMount(t *testing.T) {
	path, err := Mount("proc")
	if err != nil || path != "/proc" {
		t.Errorf("proc is mounted at %q, %v", path, err)
	}
	if _, err := Mount("no-such-type"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a type that isn't mounted gives %v", err)
	}
	if path, err := MountOr("no-such-type", "/there"); err != nil || path != "/there" {
		t.Errorf("got %q, %v", path, err)
	}
}

func TestUnescape(t *testing.T) {
	for escaped, want := range map[string]string{
		`/sys/fs/bpf`:             "/sys/fs/bpf",
		`/mnt/a\040b\011c\012d`:   "/mnt/a b\tc\nd",
		`/mnt/\134040\134\134`:    `/mnt/\040\\`,
		`/mnt/hash\043and\040so`:  "/mnt/hash#and so",
		`/mnt/not\777an\escape\0`: `/mnt/not\777an\escape\0`,
	} {
		if got := unescape(escaped); got != want {
			t.Errorf("%s is read as %q, want %q", escaped, got, want)
		}
	}
}
