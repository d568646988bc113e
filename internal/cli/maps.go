package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
)

// mapUse is one pinned map.
type mapUse struct {
	Name    string `json:"name"`
	Entries int    `json:"entries"` // most that it can have
	Used    int    `json:"used"`
	Bytes   uint64 `json:"bytes"` // as the kernel counts them
	// SizedBy is what the number of entries follows: "ratio", "services", "tables", "fixed".
	SizedBy string `json:"sized_by"`
}

// counted is what became of packets.
type counted struct {
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// readMaps lists the node's pinned maps, those of this program's layouts.
func readMaps(h *host.Host) ([]mapUse, error) {
	uses := []mapUse{}
	for base := range bpf.Layouts {
		err := eachPinned(h, base, func(m host.BPFMap, entries int) error {
			used, err := used(h, base, m.Map)
			if err != nil {
				return err
			}
			info, err := m.Info()
			if err != nil {
				return fmt.Errorf("ask for its size: %w", err)
			}
			bytes, _ := info.Memlock()
			uses = append(uses, mapUse{m.Name, entries, used, bytes, compiler.SizedBy(base)})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(uses, func(a, b mapUse) int { return cmp.Compare(a.Name, b.Name) })
	return uses, nil
}

// eachPinned visits the pinned maps of a base that have this program's layout.
func eachPinned(h *host.Host, base string, visit func(m host.BPFMap, entries int) error) error {
	maps, err := h.BPFMaps(base)
	if err != nil {
		return err
	}
	for _, m := range maps {
		if _, version, entries, ok := bpf.ParseMapName(m.Name); ok && bpf.Fits(base, version, m.Map) {
			if err := visit(m, entries); err != nil {
				return fmt.Errorf("read eBPF map %s: %w", m.Name, err)
			}
		}
	}
	return nil
}

// used counts the entries of a map. An array has all of its entries always; of one for Maglev tables those count that a
// frontend names.
func used(h *host.Host, base string, m *ebpf.Map) (int, error) {
	switch base {
	case "frontends":
		return count[bpf.FrontendKey, bpf.Frontend](m)
	case "slots":
		return count[bpf.SlotKey, bpf.Backend](m)
	case "members":
		return count[bpf.MemberKey, uint32](m)
	case "namespaces", "macs":
		return count[uint64, uint32](m)
	case "uplinks":
		return count[uint32, uint32](m)
	case "endpoints":
		return count[bpf.Address, bpf.Endpoint](m)
	case "paces":
		return count[bpf.Address, bpf.Pace](m)
	case "affinities":
		return count[bpf.AffinityKey, bpf.Affinity](m)
	case "sock_reverse", "sock_forward":
		return count[bpf.PeerKey, bpf.Peer](m)
	case "flows":
		return count[bpf.FlowKey, bpf.Flow](m)
	case "asked":
		return count[bpf.FlowKey, uint32](m)
	case "excluded":
		return count[bpf.Prefix, uint32](m)
	case "fragments":
		return count[[40]byte, [4]byte](m)
	}
	if strings.HasPrefix(base, "maglev_") {
		return tables(h, base)
	}
	return int(m.MaxEntries()), nil
}

func count[K, V any](m *ebpf.Map) (n int, err error) {
	err = bpf.Each(m, func(K, V) { n++ })
	return n, err
}

// tables counts the Maglev tables in use of one class.
func tables(h *host.Host, base string) (int, error) {
	used := map[uint32]bool{}
	err := eachPinned(h, "frontends", func(m host.BPFMap, _ int) error {
		return bpf.Each(m.Map, func(_ bpf.FrontendKey, f bpf.Frontend) {
			if f.Algorithm == bpf.Maglev && f.Slots > 0 && int(f.Class) < len(bpf.MaglevClasses) && base == bpf.MaglevMap(int(f.Class)) {
				used[f.Table] = true
			}
		})
	})
	return len(used), err
}

// readCounters adds up what the processors counted.
func readCounters(h *host.Host) ([]counted, error) {
	all := []counted{}
	err := eachPinned(h, "counters", func(m host.BPFMap, _ int) error {
		for i, reason := range bpf.Counters {
			var cpus []bpf.Counted
			if err := m.Lookup(uint32(i), &cpus); err != nil {
				return fmt.Errorf("read counter %s: %w", reason, err)
			}
			if i == len(all) {
				all = append(all, counted{Reason: reason})
			}
			for _, c := range cpus {
				all[i].Packets += c.Packets
				all[i].Bytes += c.Bytes
			}
		}
		return nil
	})
	return all, err
}
