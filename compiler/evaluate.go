package compiler

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"
)

// evaluatorName is the child's argv[0]. A name, not a flag or a variable, so that nobody gets there by accident.
const evaluatorName = "plumb-evaluate"

// The frames that child and parent exchange over the child's stdin and stdout: a type, a length, that many bytes.
const (
	frameRequest  = 'Q' // parent: a request
	frameReading  = 'R' // child: all files are read; the bytes are the processor time it may use, in text
	frameConfig   = 'C' // child: the configuration in its wire form
	frameErrors   = 'E' // child: the mistakes, as JSON
	frameLocate   = 'L' // parent: paths, as JSON
	framePosition = 'P' // child: their positions, as JSON, "" for one that is nowhere
)

// request is what the child evaluates, within what limits.
type request struct {
	Dir    string
	Cwd    string
	Tags   []string
	Memory uint64
	CPU    time.Duration
}

// RunEvaluator makes this process the guarded child if it was started as one, and reports whether it was. It must be the
// first thing in main and TestMain, which return at once on true.
func RunEvaluator() bool {
	if len(os.Args) != 1 || os.Args[0] != evaluatorName {
		return false
	}
	if err := serveEvaluation(os.Stdin, os.Stdout); err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
	return true
}

// serveEvaluation answers one request, then questions on positions until the parent closes the pipe.
func serveEvaluation(in io.Reader, out io.Writer) error {
	// Most of what an evaluation allocates lives until its end: collecting seldom costs little memory and saves a lot of time.
	debug.SetGCPercent(150)
	debug.SetMaxStack(64 << 20)
	r := bufio.NewReader(in)
	kind, b, err := readFrame(r)
	if err != nil || kind != frameRequest {
		return err
	}
	var req request
	if err := json.Unmarshal(b, &req); err != nil {
		return err
	}
	if err := limitSelf(req.Memory); err != nil {
		return fmt.Errorf("limit memory of the evaluator: %w", err)
	}
	// Nearer to the limit, which counts what is mapped and not only what is used, memory is worth more than time.
	debug.SetMemoryLimit(int64(req.Memory / 8 * 5))
	e := &evaluation{request: req, reading: func(cpu time.Duration) error {
		if err := limitCPU(cpu); err != nil {
			return err
		}
		return writeFrame(out, frameReading, []byte(cpu.String()))
	}}
	wire, mistakes := e.run()
	if len(mistakes) > 0 {
		b, err := json.Marshal(mistakes)
		if err != nil {
			return err
		}
		return writeFrame(out, frameErrors, b)
	}
	if err := writeFrame(out, frameConfig, wire); err != nil {
		return err
	}
	for {
		kind, b, err := readFrame(r)
		if err != nil || kind != frameLocate {
			return err
		}
		var paths []string
		if err := json.Unmarshal(b, &paths); err != nil {
			return err
		}
		positions := make([]string, len(paths))
		for i, p := range paths {
			positions[i] = e.locate(p)
		}
		if b, err = json.Marshal(positions); err != nil {
			return err
		}
		if err := writeFrame(out, framePosition, b); err != nil {
			return err
		}
	}
}

// maxFrame bounds what one side makes the other hold.
const maxFrame = 256 << 20

func writeFrame(w io.Writer, kind byte, b []byte) error {
	head := binary.LittleEndian.AppendUint32([]byte{kind}, uint32(len(b)))
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

func readFrame(r io.Reader) (byte, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("read from the evaluator: %d bytes are too many", n)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return head[0], b, err
}
