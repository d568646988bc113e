package compiler

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMain(m *testing.M) {
	if RunEvaluator() {
		return
	}
	os.Exit(m.Run())
}

// write makes a repository of files.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoad(t *testing.T) {
	dir := write(t, map[string]string{"a.cue": "package plumb\npods: web: {attach: \"veth\", addresses: [\"10.0.0.1\"]}\n"})
	s, err := Load(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := s.Config.Pods["web"].Attach; got != "veth" {
		t.Errorf("attach: %q", got)
	}
}
