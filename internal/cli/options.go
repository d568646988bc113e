// Package cli is what the commands of plumb do. The rules are in the compiler and the reconciler; here they are put
// together: find the node, load, compile, open the host, plan, ask, apply, print. Package main has the flags and nothing
// else, so each command is one method of Options.
//
//	options.go              the flags of every command
//	source.go, session.go   from files to a compiled node and an open host, which most commands begin with
//	plan.go apply.go ...    one file a command, or a few that belong together
//	exit.go                 exit codes, and how errors are printed
//	terminal.go, output.go  asking, progress, JSON, tables
//
// A command prints what it is asked for on Out, everything else on Err. It returns errors and never prints them: Report
// does that once. An error that needs an exit code of its own is an Exit.
//
// The tests run the real binary by scripts, testdata/script/*.txtar at the root of the module: go test ./cmd/plumb.
package cli

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// Options are the flags of every command, and where it reads and writes.
type Options struct {
	Dir     string   // the repository
	Node    string   // "": the host name, or the only node
	Tags    []string // CUE tags, KEY=VALUE
	Verbose bool
	Output  string // text or json
	NoColor bool

	// Where the host keeps things. Each node has a sub-folder of the last three. Cgroup and BPFFS are found by looking
	// where they are "".
	Cgroup, BPFFS, RunDir, StateDir string

	In       *os.File
	Out, Err io.Writer
}

// The defaults of the folders.
const (
	DefaultRunDir   = "/run/plumb"
	DefaultStateDir = "/var/lib/plumb"
)

// Check refuses flags that make no sense.
func (o *Options) Check() error {
	if o.Output != "text" && o.Output != "json" {
		return fmt.Errorf("unknown output %q: allowed are text and json", o.Output)
	}
	return nil
}

// JSON reports whether the command writes JSON.
func (o *Options) JSON() bool { return o.Output == "json" }

// color reports whether w takes colours.
func (o *Options) color(w io.Writer) bool {
	return !o.NoColor && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && terminal(w)
}

// width is the number of columns of w, or 0 where it isn't a terminal.
func (o *Options) width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

func terminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && f != nil && term.IsTerminal(int(f.Fd()))
}
