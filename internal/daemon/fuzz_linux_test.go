package daemon

import (
	"context"
	"flag"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/reconciler"
)

var (
	fuzzed   = flag.Int("fuzzed", 0, "number of random edits (default: 50, with CI=true 200)")
	fuzzSeed = flag.Uint64("seed", 1, "of the random edits")
)

// bases are what is edited.
var bases = []string{
	twoPods,
	twoPods + `services: web: {addresses: ["10.96.0.1"], ports: http: {port: 80, targetPort: 8080}, backends: [{pod: "web"}, {address: "192.0.2.9", port: 90, weight: 2}]}
`,
	`package plumb
import "list"
nodes: testnode: {uplinks: ["eth0"], podCIDRs: ["10.0.0.0/24", "fd00:10::/64"]}
podDefaults: {attach: "bridge", mtu: 1400}
pods: {for i in list.Range(0, 4, 1) {"p\(i)": labels: app: "web"}}
services: all: {addresses: ["10.96.0.2"], ports: dns: {port: 53, protocol: "UDP"}, selector: app: "web"}
`,
}

// words are what random edits put in.
var words = []string{"{", "}", "[", "]", "\"", ":", ",", "\n", "\x00", "é", "_", "...", "&", "|", "pods: ", "nodes: ", "services: ", "web", "testnode: ",
	"attach: \"macvlan\"", "mtu: 70000", "\"10.0.0.10\"", "for x in pods ", "if true ", "list.Range(0, 1000000000, 1)", "1e9", "-1", "null", "@tag(a)", "@embed(file=x)",
	"import \"os\"\n", "package other\n", "let a = a\n", "(a.b)", "=~\"(\"", "// ", "\"10.0.0.0/33\"", "pods: db: netns: \"/proc/1/ns/net\"\n"}

// edited changes a text at random, in one place or a few.
func edited(r *rand.Rand, text string) string {
	if r.IntN(2) == 0 { // one digit: it often compiles
		if digits := regexp.MustCompile(`[0-9]`).FindAllStringIndex(text, -1); len(digits) > 0 {
			at := digits[r.IntN(len(digits))][0]
			return text[:at] + string(rune('0'+r.IntN(10))) + text[at+1:]
		}
	}
	for range 1 + r.IntN(3) {
		a := r.IntN(len(text) + 1)
		b := min(len(text), a+r.IntN(20))
		switch r.IntN(6) {
		case 0: // cut off
			text = text[:a]
		case 1: // left out
			text = text[:a] + text[b:]
		case 2: // twice
			text = text[:b] + text[a:]
		case 3: // another letter
			if a < len(text) {
				text = text[:a] + string(rune(' '+r.IntN(95))) + text[a+1:]
			}
		case 4: // two lines change places
			lines := strings.Split(text, "\n")
			i, j := r.IntN(len(lines)), r.IntN(len(lines))
			lines[i], lines[j] = lines[j], lines[i]
			text = strings.Join(lines, "\n")
		default:
			text = text[:a] + words[r.IntN(len(words))] + text[a:]
		}
	}
	return text
}

// TestFuzzedFiles edits repositories at random: the daemon comes through all of it, and writes nothing on one that doesn't
// compile.
func TestFuzzedFiles(t *testing.T) {
	count := *fuzzed
	if count == 0 {
		count = map[bool]int{true: 200, false: 50}[os.Getenv("CI") == "true"]
	}
	w := newWorld(t, twoPods)
	o := w.options()
	o.Allowed = reconciler.Allowed{Disruption: true, Delete: true}
	d := New(o)
	t.Cleanup(d.close)
	w.must(d.open(t.Context()))
	w.must(d.start(t.Context()))
	d.cycle(t.Context())
	if s := d.Status(); s.State != api.Converged {
		t.Fatalf("at the beginning: %+v", s)
	}
	r := rand.New(rand.NewPCG(*fuzzSeed, 3))
	good := 0
	for i := range count {
		text := edited(r, bases[r.IntN(len(bases))])
		w.write(text)
		writes := w.dh.Writes()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		d.touched = true
		d.cycle(ctx)
		if d.touched { // read while the file system was at it
			d.cycle(ctx)
		}
		if err := ctx.Err(); err != nil {
			t.Fatalf("edit %d hangs:\n%s", i, text)
		}
		cancel()
		s := d.Status()
		if s.InForce == nil {
			t.Fatalf("edit %d: nothing is in force after\n%s", i, text)
		}
		if s.Source == nil {
			good++
		} else if n := w.dh.Writes() - writes; n > 0 && len(s.Failing) == 0 {
			t.Fatalf("edit %d: %d writes on files that don't compile:\n%s\n%s", i, n, text, s.Source.Error)
		}
	}
	t.Logf("%d of %d compile", good, count)
	w.write(twoPods)
	d.touched = true
	d.cycle(t.Context())
	if s := d.Status(); s.State != api.Converged {
		t.Errorf("at the end: %+v", s)
	}
}
