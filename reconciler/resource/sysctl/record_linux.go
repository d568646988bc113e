package sysctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"plumb.internal/plumb/internal/host"
)

// record is what was there before the first change of a setting. It lives in the run folder, which dies with the kernel
// state that it describes.
type record struct {
	Key   string `json:"key"`
	Prior string `json:"prior"`
	Ours  string `json:"ours"`
	// Along are the settings that the kernel changes along with this one.
	Along []follower `json:"along,omitempty"`
}

const rootFolder = "_root" // no pod can have that name

func recordPath(h *host.Host, netns, key string) string {
	if netns == "" {
		netns = rootFolder
	}
	return h.Path("prior", netns, url.PathEscape(key)+".json")
}

// readRecord returns the record of a setting, nil without one.
func readRecord(h *host.Host, s Sysctl) (*record, error) {
	data, err := os.ReadFile(recordPath(h, s.NetNS, s.Key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the prior value of %s: %w", s.Key, err)
	}
	r := &record{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("read the prior value of %s: %s: %w", s.Key, recordPath(h, s.NetNS, s.Key), err)
	}
	return r, nil
}

func writeRecord(h *host.Host, s Sysctl, r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	h.Wrote("record the prior value of %s", s.ID())
	if err := h.WriteFile(recordPath(h, s.NetNS, s.Key), append(data, '\n')); err != nil {
		return fmt.Errorf("record the prior value of %s: %w", s.Key, err)
	}
	return nil
}

func dropRecord(h *host.Host, s Sysctl) error {
	path := recordPath(h, s.NetNS, s.Key)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	h.Wrote("drop the record of %s", s.ID())
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop the record of %s: %w", s.Key, err)
	}
	return nil
}

// recorded lists the settings that have a record, by namespace.
func recorded(h *host.Host) (map[string][]string, error) {
	keys := map[string][]string{}
	folders, err := os.ReadDir(h.Path("prior"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the prior values: %w", err)
	}
	for _, f := range folders {
		files, err := os.ReadDir(h.Path("prior", f.Name()))
		if err != nil {
			continue // not a folder, so not ours
		}
		netns := f.Name()
		if netns == rootFolder {
			netns = ""
		}
		for _, file := range files {
			name, ok := strings.CutSuffix(file.Name(), ".json")
			if k, err := url.PathUnescape(name); ok && err == nil && !strings.HasPrefix(name, ".") {
				keys[netns] = append(keys[netns], k)
			}
		}
	}
	return keys, nil
}
