package features

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
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

// probeOnce is the set that the tests share; a probe of everything takes seconds where the machine is emulated.
func probeOnce(t *testing.T) *Set {
	t.Helper()
	needRoot(t)
	set, err := Probe(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestProbeAnswersEveryName(t *testing.T) {
	set := probeOnce(t)
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
	if len(set.Features) != len(Names()) {
		t.Errorf("%d answers for %d features: two probes have one name", len(set.Features), len(Names()))
	}
	// Nothing of this module runs without these two, so a kernel that runs this test has them.
	for _, f := range []Feature{NetNS, LinkVeth} {
		if !set.Supports(f) {
			t.Errorf("%s: %s", f, set.Why(f))
		}
	}
	if err := set.Validate(); err != nil {
		t.Errorf("a probed set is not valid: %v", err)
	}
}

// needs lists the build options without which even a new kernel doesn't have a feature.
var needs = map[Feature][]string{
	NetNS: {"NET_NS"}, IPv6: {"IPV6"}, Cgroup2: {"CGROUPS"},
	LinkVeth: {"VETH"}, LinkBridge: {"BRIDGE"}, LinkMacvlan: {"MACVLAN"}, LinkIPvlanL2: {"IPVLAN"}, LinkIPvlanL3: {"IPVLAN"},
	LinkNetkit: {"NETKIT"}, LinkDummy: {"DUMMY"}, LinkVXLAN: {"VXLAN"}, LinkGeneve: {"GENEVE"},
	NFT: {"NF_TABLES", "NF_TABLES_INET"}, NFTNat: {"NF_TABLES", "NF_TABLES_INET", "NFT_NAT", "NFT_MASQ"},
	QdiscFQ: {"NET_SCH_FQ"}, QdiscFQCodel: {"NET_SCH_FQ_CODEL"}, QdiscHTB: {"NET_SCH_HTB"}, QdiscTBF: {"NET_SCH_TBF"},
	QdiscClsact: {"NET_SCH_INGRESS", "NET_CLS_ACT"}, TCPBBR: {"TCP_CONG_BBR"}, BTF: {"DEBUG_INFO_BTF"},
	Clsact: {"BPF_SYSCALL", "NET_SCH_INGRESS", "NET_CLS_ACT", "NET_CLS_BPF"}, TCX: {"BPF_SYSCALL", "NET_XGRESS"}, NetkitAttach: {"NETKIT"},
}

// TestNoMeansNo looks for probes that say no for a reason of their own: on a kernel that isn't older than the feature, a
// no must be explained by how the kernel was built. That is looked up in the build options, or for modules among the
// installed modules, and never by what the probes do.
func TestNoMeansNo(t *testing.T) {
	set := probeOnce(t)
	options := buildOptions(set.Kernel)
	for _, name := range Names() {
		st := set.Features[name]
		if st.Supported == nil || *st.Supported || olderThan(t, set.Kernel, st.Since) {
			continue
		}
		want := needs[name]
		if strings.HasPrefix(string(name), "bpf.") && want == nil {
			want = []string{"BPF_SYSCALL"}
		}
		if strings.HasPrefix(string(name), "bpf.cgroup.") {
			want = []string{"CGROUP_BPF"}
		}
		if options == nil && want != nil {
			t.Logf("%s: can't tell why not, the kernel's build options are not to be found: %s", name, st.Reason)
			continue
		}
		if why := missingOption(set.Kernel, options, want); why == "" {
			t.Errorf("%s: no on %s, which is not older than %s and was built with it: %s", name, set.Kernel, st.Since, st.Reason)
		} else {
			t.Logf("%s: rightly no: %s", name, why)
		}
	}
}

// missingOption says which option keeps the kernel from having a feature, or "".
func missingOption(release string, options map[string]string, want []string) string {
	for _, o := range want {
		switch options[o] {
		case "":
			return o + " is not set"
		case "m":
			if !hasModules(release) {
				return o + " is a module, and no modules are installed"
			}
		}
	}
	return ""
}

func hasModules(release string) bool {
	found := errors.New("found")
	err := filepath.WalkDir("/lib/modules/"+release, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.Contains(filepath.Base(path), ".ko") {
			return found
		}
		return nil
	})
	// The machines of package vmtest load theirs before anything else.
	loaded, _ := os.ReadFile("/proc/modules")
	return errors.Is(err, found) || len(loaded) > 0
}

// buildOptions returns what the kernel was built with, or nil.
func buildOptions(release string) map[string]string {
	var r io.Reader
	if f, err := os.Open("/proc/config.gz"); err == nil {
		defer f.Close()
		if r, err = gzip.NewReader(f); err != nil {
			return nil
		}
	} else if f, err := os.Open("/boot/config-" + release); err == nil {
		defer f.Close()
		r = f
	} else {
		return nil
	}
	options := map[string]string{}
	for in := bufio.NewScanner(r); in.Scan(); {
		if k, v, ok := strings.Cut(strings.TrimPrefix(in.Text(), "CONFIG_"), "="); ok {
			options[k] = v
		}
	}
	return options
}

// olderThan compares the leading numbers of a kernel release with a version.
func olderThan(t *testing.T, release, version string) bool {
	t.Helper()
	r, v := numbers(release), numbers(version)
	if len(r) < 2 || len(v) < 2 {
		t.Fatalf("can't compare kernel %q with version %q", release, version)
	}
	return slices.Compare(r[:2], v[:2]) < 0
}

func numbers(s string) []int {
	var ns []int
	for _, f := range strings.FieldsFunc(s, func(r rune) bool { return r == '.' || r == '-' }) {
		n, err := strconv.Atoi(f)
		if err != nil {
			break
		}
		ns = append(ns, n)
	}
	return ns
}

func TestProbeLeavesNothingBehind(t *testing.T) {
	needRoot(t)
	before := traces(t)
	if _, err := Probe(context.Background()); err != nil {
		t.Fatal(err)
	}
	// Threads end, and the kernel frees programs, a moment after the probes: look until it is so.
	var left []string
	for range 1000 {
		if left = added(before, traces(t)); len(left) == 0 {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	for _, l := range left {
		t.Errorf("left behind: %s", l)
	}
}

// added lists the lines that are only in after. What other tests left and the kernel frees meanwhile doesn't count.
func added(before, after map[string]string) []string {
	var lines []string
	for k, v := range after {
		for line := range strings.Lines(v) {
			if !strings.Contains(before[k], line) {
				lines = append(lines, k+": "+line)
			}
		}
	}
	return lines
}

// traces is everything that a probe could leave behind. No probe makes a cgroup, so those aren't looked at:
// other tests make and remove theirs meanwhile.
func traces(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	read := func(path string) string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	found["mounts"] = read("/proc/thread-self/mountinfo")
	found["links"] = strings.Join(linkNames(t), "\n")
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	spaces := map[string]bool{}
	for _, path := range threads {
		if ns, err := os.Readlink(path); err == nil {
			spaces[ns] = true
		}
	}
	found["namespaces of threads"] = strings.Join(slices.Sorted(maps.Keys(spaces)), "\n")
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if target, err := os.Readlink(path); err == nil && (strings.Contains(target, "bpf") || strings.HasPrefix(target, "net:")) {
			found["open files"] += target + "\n"
		}
	}
	for id, err := ebpf.ProgramID(0), error(nil); ; {
		if id, err = ebpf.ProgramGetNextID(id); err != nil {
			break
		}
		if p, err := ebpf.NewProgramFromID(id); err == nil {
			if info, err := p.Info(); err == nil && info.Name == trialName {
				found["programs"] += fmt.Sprintln(id)
			}
			p.Close()
		}
	}
	for id, err := ebpf.MapID(0), error(nil); ; {
		if id, err = ebpf.MapGetNextID(id); err != nil {
			break
		}
		if m, err := ebpf.NewMapFromID(id); err == nil {
			if info, err := m.Info(); err == nil && info.Name == trialName {
				found["maps"] += fmt.Sprintln(id)
			}
			m.Close()
		}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		t.Fatal(err)
	}
	found["limit of locked memory"] = fmt.Sprint(limit)
	return found
}

func linkNames(t *testing.T) []string {
	t.Helper()
	facts, err := hostFacts()
	if err != nil {
		t.Fatal(err)
	}
	return sortedKeys(facts.Devices)
}

func TestAnswer(t *testing.T) {
	p := probe{since: "5.4", what: "doing it"}
	for _, c := range []struct {
		err    error
		answer string
		reason string
	}{
		{nil, "yes", "doing it: works"},
		{unix.EOPNOTSUPP, "no", "doing it: operation not supported"},
		{fmt.Errorf("attach: %w", unix.EINVAL), "no", "doing it: attach: invalid argument"},
		{errAbsent, "no", "doing it: accepted, and silently not done"},
		{fmt.Errorf("tcx: %w", ebpf.ErrNotSupported), "no", "doing it: tcx: not supported"},
		{unix.EPERM, "unknown", ""},
		{unix.ENOMEM, "unknown", "doing it: cannot allocate memory"},
		{unix.EBUSY, "unknown", "doing it: device or resource busy"},
		{untried("create a pair", unix.EOPNOTSUPP), "unknown", "doing it: could not be tried: create a pair: operation not supported"},
	} {
		st := p.answer(c.err)
		if st.answer() != c.answer || c.reason != "" && st.Reason != c.reason || st.Since != "5.4" {
			t.Errorf("answer to %v is %s, %q; expected %s, %q", c.err, st.answer(), st.Reason, c.answer, c.reason)
		}
	}
}

// TestWithoutPrivilege runs this test binary as another user, who may ask for nothing: no answer may be no.
func TestWithoutPrivilege(t *testing.T) {
	if os.Getenv("FEATURES_TEST_PRINT") != "" {
		set, err := Probe(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range Names() {
			fmt.Printf("answer %s %s %s\n", name, set.Features[name].answer(), set.Features[name].Reason)
		}
		return
	}
	needRoot(t)
	binary := filepath.Join(t.TempDir(), "features.test")
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, data, 0o755); err != nil {
		t.Fatal(err)
	}
	for d := filepath.Dir(binary); d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(binary, "-test.run=^TestWithoutPrivilege$")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "FEATURES_TEST_PRINT=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("probe as another user: %v\n%s", err, out)
	}
	answers := 0
	for line := range bytes.Lines(out) {
		f := strings.SplitN(strings.TrimSpace(string(line)), " ", 4)
		if f[0] != "answer" {
			continue
		}
		answers++
		if f[2] == "yes" {
			continue // some things anybody may do
		}
		if f[2] != "unknown" || !strings.Contains(f[3], "needs root") && !strings.Contains(f[3], "operation not permitted") {
			t.Errorf("without privilege: %s", line)
		}
	}
	if answers != len(Names()) {
		t.Errorf("%d answers for %d features:\n%s", answers, len(Names()), out)
	}
}

func TestProbeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Probe(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, expected context canceled", err)
	}
}
