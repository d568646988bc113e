// Package examples holds one folder per scenario: CUE files, a README, and the script that a test runs in a lab.
package examples

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// FS is every example.
//
//go:embed */*.cue */README.md */test.txtar
var FS embed.FS

// Names lists the examples.
func Names() []string {
	dirs, err := fs.ReadDir(FS, ".")
	if err != nil {
		panic(err) // embedded: can't be missing
	}
	var names []string
	for _, d := range dirs {
		names = append(names, d.Name())
	}
	return names
}

// Files returns the CUE files and the README of an example, by name.
func Files(name string) (map[string][]byte, error) {
	entries, err := fs.ReadDir(FS, path.Clean(name))
	if err != nil || strings.ContainsAny(name, "./") {
		return nil, fmt.Errorf("there is no example %q: the examples are %s", name, strings.Join(Names(), ", "))
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if e.Name() == "test.txtar" {
			continue
		}
		if files[e.Name()], err = FS.ReadFile(path.Join(name, e.Name())); err != nil {
			return nil, fmt.Errorf("read example: %w", err)
		}
	}
	return files, nil
}
