package sysctl

import (
	"cmp"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/prior"
)

// record is what was there before the first change of a setting.
type record struct {
	Key   string `json:"key"`
	Prior string `json:"prior"`
	Ours  string `json:"ours"`
	// Earlier are those that were ours before: the change to the present one may have been cut off.
	Earlier []string `json:"earlier,omitempty"`
	// Along are the settings that the kernel changes along with this one.
	Along []follower `json:"along,omitempty"`
}

// folder is where the records of a namespace are.
func folder(netns string) string { return cmp.Or(netns, prior.Root) }

// readRecord returns the record of a setting, nil without one.
func readRecord(h *host.Host, s Sysctl) (*record, error) {
	r := &record{}
	if ok, err := prior.Read(h, folder(s.NetNS), s.Key, r); !ok {
		return nil, err
	}
	return r, nil
}

func writeRecord(h *host.Host, s Sysctl, r *record) error {
	return prior.Write(h, folder(s.NetNS), s.Key, s.ID(), r)
}

func dropRecord(h *host.Host, s Sysctl) error { return prior.Drop(h, folder(s.NetNS), s.Key, s.ID()) }

// recorded lists the settings that have a record, by namespace.
func recorded(h *host.Host) (map[string][]string, error) {
	keys := map[string][]string{}
	folders, err := prior.Folders(h)
	if err != nil {
		return nil, err
	}
	for _, f := range folders {
		netns := f
		if f == prior.Root {
			netns = ""
		} else if !prior.IsPod(f) {
			continue // another kind's
		}
		if keys[netns], err = prior.Names(h, f); err != nil {
			return nil, err
		}
	}
	return keys, nil
}
