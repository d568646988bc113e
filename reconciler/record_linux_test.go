package reconciler_test

import (
	"context"
	"testing"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
)

// record is what a host has, written down and read again.
func record(t *testing.T, o host.Options) resource.State {
	t.Helper()
	h := kindtest.Open(t, o)
	seen, err := reconciler.Observe(t.Context(), h, resource.State{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := reconciler.Record(seen)
	if err != nil {
		t.Fatal(err)
	}
	state, err := reconciler.Recorded(data)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// plan is what would bring a host to a state.
func plan(ctx context.Context, t *testing.T, o host.Options, s resource.State) *resource.Plan {
	t.Helper()
	h := kindtest.Open(t, o)
	seen, err := reconciler.Observe(ctx, h, s)
	if err != nil {
		t.Fatal(err)
	}
	p, err := reconciler.Diff(s, seen)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestRealRecord writes down a host that has something of every kind: it is as it is written, object by object, and each knows
// what it needs, as those of the configuration do.
func TestRealRecord(t *testing.T) {
	o := kindtest.Options(t)
	s := everything(t, adopt(t))
	if err := converge(t, o, s); err != nil {
		t.Fatal(err)
	}
	w := record(t, o)
	if p := plan(t.Context(), t, o, w); !p.Empty() || len(p.Conflicts) > 0 {
		t.Errorf("to come back to the present takes %v, conflicts %v", p.Changes, p.Conflicts)
	}
	for id, want := range s {
		got := w[id]
		if got == nil {
			if id.Kind != "sysctl" { // it had its value
				t.Errorf("%s isn't in the record", id)
			}
			continue
		}
		if id.Kind == "bpfprog" {
			continue // its maps are those of the kernel, in the kernel's order
		}
		have := map[resource.ID]bool{}
		for _, need := range append(got.After(), got.DiesWith()...) {
			have[need] = true
		}
		for _, need := range append(want.After(), want.DiesWith()...) {
			if w[need] != nil && !have[need] {
				t.Errorf("%s needs %s, and the record doesn't know", id, need)
			}
		}
	}
	if len(w) < len(s)*9/10 {
		t.Errorf("%d of %d objects are in the record", len(w), len(s))
	}
	destroy(t, o)
}

// TestRecordedRefuses takes no state that isn't what was written.
func TestRecordedRefuses(t *testing.T) {
	for _, text := range []string{
		``, `null`, `{}`, `{"format_version":"2","objects":[]}`,
		`{"format_version":"1","objects":[{"id":{"kind":"nothing","netns":"","name":"x"},"object":{}}]}`,
		`{"format_version":"1","objects":[{"id":{"kind":"route","netns":"","name":"10.0.0.1/32"},"object":{}}]}`,
		`{"format_version":"1","objects":[{"id":{"kind":"netns","netns":"","name":"web"},"object":{"Name":"web"}},` +
			`{"id":{"kind":"netns","netns":"","name":"web"},"object":{"Name":"web"}}]}`,
	} {
		if s, err := reconciler.Recorded([]byte(text)); err == nil {
			t.Errorf("%s is %v", text, s)
		}
	}
	if s, err := reconciler.Recorded([]byte(`{"format_version":"1","objects":[]}`)); err != nil || len(s) != 0 {
		t.Errorf("nothing is %v, %v", s, err)
	}
}
