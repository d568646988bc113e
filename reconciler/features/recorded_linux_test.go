package features

import (
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

const recorded = "../../testdata/features"

// fromRuns are the files that come from real runs, and which of the features that are older than the kernel it lacks
// because of how it was built.
var fromRuns = map[string][]Feature{
	"5.10-amd64": nil,
	"6.1-amd64":  nil,
	"6.12-amd64": nil,
	"6.18-amd64": {NetkitAttach, LinkDummy, LinkGeneve, LinkIPvlanL2, LinkIPvlanL3, LinkNetkit, QdiscFQ, QdiscFQCodel},
}

func TestRecordedFiles(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(recorded, "*.json"))
	if err != nil || len(paths) < len(fromRuns)+1 {
		t.Fatalf("found %d files, error %v", len(paths), err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		t.Run(name, func(t *testing.T) {
			set, err := ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			version, arch, _ := strings.Cut(name, "-")
			if !strings.HasPrefix(set.Kernel, version+".") || set.Arch != arch {
				t.Errorf("holds the answers of %s %s", set.Kernel, set.Arch)
			}
			if set.Host == nil || set.Host.Devices["eth0"].MTU == 0 {
				t.Error("has no facts of a host with an uplink eth0")
			}
			for _, f := range Names() {
				if _, ok := set.Features[f]; !ok {
					t.Errorf("has no answer for %s: record it anew", f)
				}
			}
			lacks, real := fromRuns[name]
			if real == strings.Contains(set.Note, "by hand") {
				t.Errorf("its note is %q", set.Note)
			}
			if !real {
				return
			}
			// Debian's kernels and mainline have what their version has, so this checks the stated versions too.
			for f, st := range set.Features {
				expected := !olderThan(t, set.Kernel, st.Since)
				for _, l := range lacks {
					expected = expected && f != l
				}
				if st.Supported == nil || *st.Supported != expected {
					t.Errorf("%s is %s, expected %v since %s: %s", f, st.answer(), expected, st.Since, st.Reason)
				}
			}
		})
	}
}

// TestRecordedFileOfThisKernel compares a file with the kernel that the test runs on, where there is one for it.
func TestRecordedFileOfThisKernel(t *testing.T) {
	set := probeOnce(t)
	version := regexp.MustCompile(`^\d+\.\d+`).FindString(set.Kernel)
	path := filepath.Join(recorded, version+"-"+runtime.GOARCH+".json")
	file, err := ReadFile(path)
	if err != nil {
		t.Skipf("no recorded file for %s", set.Kernel)
	}
	if release := regexp.MustCompile(`^[0-9.]+`); file.Kernel != set.Kernel && file.Kernel != release.FindString(set.Kernel) {
		t.Skipf("%s is from kernel %s, this is %s", path, file.Kernel, set.Kernel)
	}
	for _, f := range Names() {
		if was, is := file.Features[f], set.Features[f]; was.answer() != is.answer() {
			t.Errorf("%s: recorded %s, now %s: %s", f, was.answer(), is.answer(), is.Reason)
		}
	}
}
