package features

import (
	"context"
	"os"
	"testing"
)

// needRoot skips where the probes can't run. Where everything is expected to run that is a failure.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

func TestProbeAnswersEveryName(t *testing.T) {
	needRoot(t)
	set, err := Probe(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Names() {
		st, ok := set.Features[name]
		switch {
		case !ok:
			t.Errorf("%s: no answer", name)
		case st.Reason == "" || st.Since == "":
			t.Errorf("%s: no reason or no version: %+v", name, st)
		case st.Supported == nil:
			t.Errorf("%s: could not tell: %s", name, st.Reason)
		}
	}
	// Nothing of this module runs without these two, so a kernel that builds it has them.
	for _, f := range []Feature{NetNS, LinkVeth} {
		if !set.Supports(f) {
			t.Errorf("%s: %s", f, set.Why(f))
		}
	}
	if err := set.Validate(); err != nil {
		t.Errorf("a probed set is not valid: %v", err)
	}
}
