package service_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource/service"
)

// Entries that are nobody's go with one apply, whatever they look like, and the next one writes nothing.
func TestJunk(t *testing.T) {
	h := kindtest.Root(t)
	kindtest.BPFFS(t, h)
	s := node(t, room(8), 0, 2)
	if err := reconciler.Converge(t.Context(), h, s); err != nil {
		t.Fatal(err)
	}
	want := held(t, h)
	var real bpf.FrontendKey
	err := bpf.Each(mapOf(t, h, "frontends").Map, func(k bpf.FrontendKey, _ bpf.Frontend) { real = k })
	if err != nil {
		t.Fatal(err)
	}
	id := service.HashID(real.Addr.Addr(), real.Port.Number(), "TCP")
	const nobody = 0xabababababababab
	slots := func(keys ...bpf.SlotKey) map[string][]any {
		all := map[string][]any{}
		for _, k := range keys {
			all["slots"] = append(all["slots"], k)
		}
		return all
	}
	padded := real
	padded.Pad = 7
	for name, junk := range map[string]map[string][]any{
		"a junk key":                {"slots": {bpf.SlotKey{Service: nobody, Slot: nobody & 0xffffffff, Pad: nobody & 0xffffffff}}},
		"a hole":                    slots(bpf.SlotKey{Service: nobody}, bpf.SlotKey{Service: nobody, Slot: 1}, bpf.SlotKey{Service: nobody, Slot: 3}),
		"the first is missing":      slots(bpf.SlotKey{Service: nobody, Slot: 1}),
		"a high number":             slots(bpf.SlotKey{Service: nobody, Slot: 1<<32 - 1}),
		"padding":                   slots(bpf.SlotKey{Service: nobody, Pad: 1}),
		"padding and none":          slots(bpf.SlotKey{Service: nobody, Pad: 1}, bpf.SlotKey{Service: nobody}),
		"a hole in a wanted one":    slots(bpf.SlotKey{Service: id, Slot: 9}),
		"high in a wanted one":      slots(bpf.SlotKey{Service: id, Slot: 1<<32 - 1}),
		"padding in a wanted one":   slots(bpf.SlotKey{Service: id, Pad: 1}, bpf.SlotKey{Service: id, Slot: 1, Pad: 1 << 31}),
		"a frontend with padding":   {"frontends": {bpf.FrontendKey{Addr: bpf.Address{1}, Pad: 1}}},
		"a wanted one with padding": {"frontends": {padded}},
		"a frontend like nothing":   {"frontends": {bpf.FrontendKey{Addr: bpf.Address{0xab, 15: 0xab}, Proto: 0xab}}},
		"a member":                  {"members": {bpf.MemberKey{Service: nobody, Backend: nobody}}},
		"members and slots": {"members": {bpf.MemberKey{Service: nobody}, bpf.MemberKey{Service: nobody, Backend: 1}, bpf.MemberKey{Service: id, Backend: 5}},
			"slots": {bpf.SlotKey{Service: nobody, Slot: 5}, bpf.SlotKey{Service: 3, Slot: 2, Pad: 2}}},
	} {
		t.Run(name, func(t *testing.T) {
			for base, keys := range junk {
				m := mapOf(t, h, base)
				value := make([]byte, m.ValueSize())
				for i := range value {
					value[i] = 0xab
				}
				for _, k := range keys {
					if err := m.Put(k, value); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := reconciler.Converge(t.Context(), h, s); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, held(t, h)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
			n := h.Writes()
			if err := reconciler.Converge(t.Context(), h, s); err != nil || h.Writes() != n {
				t.Errorf("the second apply wrote %d times, %v", h.Writes()-n, err)
			}
		})
	}
}

// mapOf is the only map of a name.
func mapOf(t *testing.T, h *host.Host, base string) host.BPFMap {
	t.Helper()
	ms, err := h.BPFMaps(base)
	if err != nil || len(ms) != 1 {
		t.Fatalf("%d maps %s: %v", len(ms), base, err)
	}
	return ms[0]
}
