// Package vmtest runs the tests and programs of this module on other kernels, in virtual machines.
//
// A machine is a Debian kernel, an initramfs that holds everything it runs, and nothing else: no disk, no network but an
// unconnected device, no state that outlives it. The host side packs the initramfs and starts qemu; the guest side is
// /init, which runs the steps of a [Job] one after the other. They speak over the serial console: whatever the steps
// print, and in between lines that begin with a mark and hold an [Event].
package vmtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Job is what a machine does from start to end. It travels as /job.json.
type Job struct {
	Modules []string // files below /modules, each after those it needs
	Env     []string // for all steps
	Steps   []Step
}

// Step is one command. A step that fails doesn't keep the following ones from running.
type Step struct {
	Name    string
	Argv    []string
	Dir     string
	Timeout time.Duration // after it the step's process group is killed; 0: none
}

// Event is what the guest reports on the console beside the output of the steps.
type Event struct {
	Up     float64 `json:"up,omitempty"`     // seconds since the kernel started, once, before the first step
	Begin  string  `json:"begin,omitempty"`  // a step starts: what follows is its output
	End    *End    `json:"end,omitempty"`    // the step has ended
	File   string  `json:"file,omitempty"`   // a piece of a file that a step left in /out
	Data   []byte  `json:"data,omitempty"`   // the piece
	Done   bool    `json:"done,omitempty"`   // all steps have ended
	Broken string  `json:"broken,omitempty"` // the guest couldn't be set up
}

// End is how a step ended.
type End struct {
	Exit   int    `json:"exit"` // 128 plus the number of the signal that ended it
	TookMS int64  `json:"took_ms"`
	Error  string `json:"error,omitempty"` // why it couldn't be started, or that it ran out of time
}

// mark begins a line of the console that holds an event.
const mark = "@@vmtest "

// Report writes an event to the console. The newline before it ends whatever a step left unfinished.
func Report(w io.Writer, e Event) error {
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	_, err = fmt.Fprintf(w, "\n%s%s\n", mark, data)
	return err
}

// Result is what became of one step.
type Result struct {
	Name   string
	Output []byte
	End    End
}

// OK reports whether the step was run and returned 0.
func (r Result) OK() bool { return r.End.Exit == 0 && r.End.Error == "" }

// Outcome is everything that came out of a machine.
type Outcome struct {
	Up      float64 // seconds from the start of the kernel to the first step
	Results []Result
	Files   map[string][]byte
	Noise   []byte // what was printed outside of the steps: the kernel's own words
}

// readConsole follows the console until it is closed. Output of steps goes to live as it comes, if live isn't nil. The
// error says that the machine ended before its job did; what was read until then is returned with it.
func readConsole(r io.Reader, live io.Writer) (*Outcome, error) {
	out := &Outcome{Files: map[string][]byte{}}
	var current *Result
	done := false
	in := bufio.NewReaderSize(r, 1<<16)
	for {
		line, err := in.ReadBytes('\n')
		text := append(bytes.TrimRight(line, "\r\n"), '\n')
		if e, ok := parseEvent(string(text)); ok {
			switch {
			case e.Broken != "":
				return out, fmt.Errorf("set up guest: %s", e.Broken)
			case e.Begin != "":
				current = &Result{Name: e.Begin}
			case e.End != nil && current != nil:
				current.End = *e.End
				current.Output = bytes.TrimSuffix(current.Output, []byte("\n")) // Report's own
				out.Results = append(out.Results, *current)
				current = nil
			case e.File != "":
				out.Files[e.File] = append(out.Files[e.File], e.Data...)
			case e.Done:
				done = true
			case e.Up > 0:
				out.Up = e.Up
			}
		} else if len(line) > 0 {
			if current != nil {
				current.Output = append(current.Output, text...)
			} else {
				out.Noise = append(out.Noise, text...)
			}
			if live != nil {
				if _, err := live.Write(text); err != nil {
					return out, fmt.Errorf("copy console: %w", err)
				}
			}
		}
		if err == nil {
			continue
		}
		if current != nil {
			return out, fmt.Errorf("the machine ended during %s; its last words:\n%s", current.Name, tail(current.Output, 30))
		}
		if !done {
			return out, fmt.Errorf("the machine ended before its job did; its last words:\n%s", tail(out.Noise, 30))
		}
		return out, nil
	}
}

func parseEvent(line string) (Event, bool) {
	var e Event
	i := strings.Index(line, mark)
	if i < 0 || json.Unmarshal([]byte(line[i+len(mark):]), &e) != nil {
		return Event{}, false
	}
	return e, true
}

// tail returns the last n lines.
func tail(b []byte, n int) []byte {
	lines := bytes.SplitAfter(bytes.TrimRight(b, "\n"), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], nil)
}
