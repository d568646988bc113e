package features

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// planted returns a cache file that holds one answer that no kernel gives, so that a test sees who answered.
func planted(t *testing.T, key string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "node", "features.json")
	err := writeCache(path, cacheFile{Key: key, Features: map[Feature]Status{"planted": {Reason: "from the cache"}}})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func ownKey(t *testing.T) string {
	t.Helper()
	key, err := cacheKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestCachedAnswersWithoutWriting(t *testing.T) {
	path := planted(t, ownKey(t))
	// A folder that can't be written proves nothing to root, so compare what the file is.
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	set, err := Cached(context.Background(), path, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Features) != 1 || set.Why("planted") != "from the cache" {
		t.Errorf("the kernel was asked although the cache holds the answers: %v", set.Features)
	}
	if set.Kernel == "" || set.Host == nil || set.Host.CPUs == 0 {
		t.Errorf("the kernel's name or the facts of the host are missing: %+v", set)
	}
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) || before.ModTime() != after.ModTime() {
		t.Error("the file was written although it held the answers")
	}
}

func TestCachedAsksAnew(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		path    func(t *testing.T) string
		refresh bool
	}{
		"no file":        {func(t *testing.T) string { return filepath.Join(t.TempDir(), "new", "features.json") }, false},
		"refresh":        {func(t *testing.T) string { return planted(t, ownKey(t)) }, true},
		"another kernel": {func(t *testing.T) string { return planted(t, "another") }, false},
		"damaged": {func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "features.json")
			if err := os.WriteFile(path, []byte(`{"key":`), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := c.path(t)
			set, err := Cached(context.Background(), path, c.refresh)
			if err != nil {
				t.Fatal(err)
			}
			if len(set.Features) != len(Names()) {
				t.Errorf("%d answers, expected %d", len(set.Features), len(Names()))
			}
			again, err := Cached(context.Background(), path, false)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(set.Features, again.Features); diff != "" {
				t.Errorf("the cache answers otherwise than the kernel (-kernel +cache):\n%s", diff)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var c cacheFile
			if err := json.Unmarshal(data, &c); err != nil || c.Key != ownKey(t) {
				t.Errorf("the file holds key %q, error %v", c.Key, err)
			}
			if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
				t.Errorf("the folder holds %v, error %v; expected the file alone", entries, err)
			}
		})
	}
}

func TestCachedWhereNothingCanBeWritten(t *testing.T) {
	needRoot(t)
	set, err := Cached(context.Background(), "/proc/self/no/features.json", false)
	if err != nil || len(set.Features) != len(Names()) {
		t.Errorf("error %v; expected the answers all the same", err)
	}
}
