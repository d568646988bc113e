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
