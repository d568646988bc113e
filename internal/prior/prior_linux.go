// Package prior keeps what was on the host before plumb changed it: settings that can't carry a mark come back by these
// records. They live in the run folder, which dies with the kernel state that they describe.
//
// A record is written before the first change and goes after the last, so that a kill at any point leaves either nothing
// changed or a record of how it was.
package prior

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Folders of the root namespace and of the machine. No pod can have such a name; every other folder is a pod's.
const (
	Root  = "_root" // sysctls of the root namespace
	Files = "_files"
	NICs  = "_nics"
	Units = "_units"
)

// IsPod reports whether a folder is a pod's.
func IsPod(folder string) bool { return !strings.HasPrefix(folder, "_") }

func path(h *host.Host, folder, name string) string {
	return h.Path("prior", folder, url.PathEscape(name)+".json")
}

// Read fills v from a record, and reports whether there is one.
func Read(h *host.Host, folder, name string, v any) (bool, error) {
	data, err := os.ReadFile(path(h, folder, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the prior value of %s: %w", name, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, fmt.Errorf("read the prior value of %s: %s: %w", name, path(h, folder, name), err)
	}
	return true, nil
}

// Write makes v the record of an object.
func Write(h *host.Host, folder, name string, id resource.ID, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h.Wrote("record the prior value of %s", id)
	if err := h.WriteFile(path(h, folder, name), append(data, '\n')); err != nil {
		return fmt.Errorf("record the prior value of %s: %w", name, err)
	}
	return nil
}

// Drop removes a record, if there is one.
func Drop(h *host.Host, folder, name string, id resource.ID) error {
	file := path(h, folder, name)
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	h.Wrote("drop the record of %s", id)
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop the record of %s: %w", name, err)
	}
	return nil
}

// Names lists what has a record in a folder.
func Names(h *host.Host, folder string) (names []string, err error) {
	files, err := os.ReadDir(h.Path("prior", folder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the prior values: %w", err)
	}
	for _, file := range files {
		name, ok := strings.CutSuffix(file.Name(), ".json")
		if n, err := url.PathUnescape(name); ok && err == nil && !strings.HasPrefix(name, ".") {
			names = append(names, n)
		}
	}
	return names, nil
}

// Folders lists the folders that there are.
func Folders(h *host.Host) (names []string, err error) {
	folders, err := os.ReadDir(h.Path("prior"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the prior values: %w", err)
	}
	for _, f := range folders {
		if f.IsDir() {
			names = append(names, f.Name())
		}
	}
	return names, nil
}
