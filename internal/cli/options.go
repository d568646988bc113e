// Package cli holds what the commands of plumb share: the flags, finding the node, opening the host, talking to the person
// at the terminal, and exit codes. What a command does lies in the compiler and the reconciler; here it is put together.
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
	DefaultBPFFS    = "/sys/fs/bpf"
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
