package vmtest

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// Skip is a test that said it can't run.
type Skip struct {
	Test   string
	Reason string
}

var (
	skipLine = regexp.MustCompile(`^--- SKIP: (\S+)`)
	runLine  = regexp.MustCompile(`^(?:=== (?:RUN|CONT|NAME)\s+|--- (?:PASS|FAIL): )(\S+)`)
)

// Skips finds the skipped tests in what a test binary printed with -test.v. The reason is the last line that the test
// logged, which comes long before the verdict where a test has subtests.
func Skips(output string) []Skip {
	var skips []Skip
	logged := map[string]string{} // by test
	running := ""
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if m := skipLine.FindStringSubmatch(line); m != nil {
			skips = append(skips, Skip{m[1], logged[m[1]]})
		} else if m := runLine.FindStringSubmatch(line); m != nil {
			running = m[1]
		} else if line != "" {
			logged[running] = line
		}
	}
	return skips
}

// passLine is the verdict on a test or a subtest that passed.
var passLine = regexp.MustCompile(`(?m)^ *--- PASS: `)

// Totals is a machine's work in figures.
type Totals struct {
	OK, Failed      int // steps
	Passed, Skipped int // tests, their subtests included
}

// Totals counts. Steps that were never reached have failed.
func (o *Outcome) Totals(steps int) Totals {
	var t Totals
	for _, r := range o.Results {
		if r.OK() {
			t.OK++
		}
		t.Passed += len(passLine.FindAll(r.Output, -1))
		t.Skipped += len(Skips(string(r.Output)))
	}
	t.Failed = steps - t.OK
	return t
}

// Summarize prints a line for every step, all that a failed one printed, and every skipped test with its reason.
func (o *Outcome) Summarize(w io.Writer, kernel string) {
	for _, r := range o.Results {
		verdict := "ok  "
		if !r.OK() {
			verdict = "FAIL"
			fmt.Fprintf(w, "%s\n", r.Output)
		}
		took := (time.Duration(r.End.TookMS) * time.Millisecond).Round(10 * time.Millisecond)
		fmt.Fprintf(w, "%s  %s  %s  %v", verdict, kernel, r.Name, took)
		if r.End.Exit != 0 {
			fmt.Fprintf(w, "  exit %d %s", r.End.Exit, r.End.Error)
		}
		fmt.Fprintln(w)
		for _, s := range Skips(string(r.Output)) {
			fmt.Fprintf(w, "      skipped %s: %s\n", s.Test, s.Reason)
		}
	}
}
