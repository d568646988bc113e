// Package compiler turns a repository of CUE files into the desired state of one node.
package compiler

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hashicorp/go-multierror"

	"plumb.internal/plumb/schema"
)

// Source is a repository whose configuration is complete and valid. Close it when its errors need no positions any more.
type Source struct {
	// Config is the decoded configuration.
	Config *schema.Config
	// Digest is the sha256 of the configuration in hex: equal configurations have equal digests, however they are written.
	Digest string

	child *evaluator
}

// Limits of an evaluation. Mistakes and bombs end at these; the processor time grows with the size of the files. Environment
// variables can raise them: PLUMB_EVAL_MEMORY, in MiB, for a repository that really is that large, and PLUMB_EVAL_TIME, such
// as "30s", on a machine that is so slow or so busy that an honest repository doesn't come to its turn.
const (
	defaultMemory = 320 << 20
	defaultCPU    = 5 * time.Second // of processors
	defaultWall   = 9 * time.Second // by the clock
	memoryEnv     = "PLUMB_EVAL_MEMORY"
	timeEnv       = "PLUMB_EVAL_TIME"
)

// Load evaluates the CUE package in dir, with tags of the form key=value, in a guarded child process: configuration may come
// from anybody who may write to a repository, and CUE can be made to use any amount of time, memory and stack.
// Its error is a *multierror.Error of errors that each start with file:line:col where there is a place.
func Load(ctx context.Context, dir string, tags []string) (*Source, error) {
	s, err := loadGuarded(ctx, dir, tags)
	if err != nil {
		merr, ok := err.(*multierror.Error) //nolint:errorlint // only our own, unwrapped
		if !ok {
			merr = multierror.Append(nil, err)
		}
		merr.ErrorFormat = formatErrors
		return nil, merr
	}
	return s, nil
}

func loadGuarded(ctx context.Context, dir string, tags []string) (*Source, error) {
	req := request{Tags: tags, Memory: defaultMemory, CPU: defaultCPU}
	wall := defaultWall
	if v := os.Getenv(timeEnv); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil || d < defaultWall {
			return nil, fmt.Errorf("read %s: %q is not a time from %v on", timeEnv, v, defaultWall)
		}
		wall, req.CPU = d, (d / 9 * 5).Truncate(time.Second) // as the defaults are to each other
	}
	if v := os.Getenv(memoryEnv); v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || n < 64 {
			return nil, fmt.Errorf("read %s: %q is not a number of MiB from 64 on", memoryEnv, v)
		}
		req.Memory = n << 20
	}
	var err error
	if req.Dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("find %s: %w", dir, err)
	}
	if req.Cwd, err = os.Getwd(); err != nil {
		req.Cwd = "/"
	}
	child, err := startEvaluator(ctx)
	if err != nil {
		return nil, fmt.Errorf("start the evaluator: %w", err)
	}
	s, err := child.evaluate(ctx, dir, req, wall)
	if err != nil {
		child.close()
		return nil, err
	}
	return s, nil
}

// Close ends the child that knows the positions.
func (s *Source) Close() {
	if s != nil && s.child != nil {
		s.child.close()
	}
}

// evaluator is the child process, seen from its parent.
type evaluator struct {
	cmd    *exec.Cmd
	in     *os.File      // where requests go
	out    *os.File      // where answers come from
	stderr limitedBuffer // for reading when ended is closed
	ended  chan struct{}

	mu       sync.Mutex // one question at a time
	timedOut atomic.Bool
}

func startEvaluator(ctx context.Context) (*evaluator, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	e := &evaluator{cmd: &exec.Cmd{Path: self, Args: []string{evaluatorName}, Env: []string{}, Dir: "/"}, ended: make(chan struct{})}
	// Pipes of our own: those of exec.Cmd are closed by Wait, before the last answer is read.
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		inR.Close()
		inW.Close()
		return nil, err
	}
	e.cmd.Stdin, e.cmd.Stdout, e.cmd.Stderr = inR, outW, &e.stderr
	e.in, e.out = inW, outR
	err = startGuarded(e.cmd, func(error) { close(e.ended) })
	inR.Close()
	outW.Close()
	if err != nil {
		inW.Close()
		outR.Close()
		return nil, err
	}
	return e, nil
}

func (e *evaluator) close() {
	_ = e.cmd.Process.Kill()
	<-e.ended
	e.in.Close()
	e.out.Close()
}

// answer reads one frame, and kills the child if that takes longer than wall.
func (e *evaluator) answer(ctx context.Context, wall time.Duration) (byte, []byte, error) {
	timer := time.AfterFunc(wall, func() {
		e.timedOut.Store(true)
		_ = e.cmd.Process.Kill()
	})
	defer timer.Stop()
	defer context.AfterFunc(ctx, func() { _ = e.cmd.Process.Kill() })()
	return readFrame(e.out)
}

func (e *evaluator) evaluate(ctx context.Context, dir string, req request, wall time.Duration) (*Source, error) {
	b, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	if err := writeFrame(e.in, frameRequest, b); err != nil {
		return nil, e.died(ctx, dir, req, wall)
	}
	for {
		kind, b, err := e.answer(ctx, wall)
		if err != nil {
			return nil, e.died(ctx, dir, req, wall)
		}
		switch kind {
		case frameReading:
			cpu, err := time.ParseDuration(string(b))
			if err != nil {
				return nil, fmt.Errorf("evaluate %s: %w", dir, err)
			}
			wall += 4 * (cpu - req.CPU)
			req.CPU = cpu
		case frameErrors:
			var mistakes []Mistake
			if err := json.Unmarshal(b, &mistakes); err != nil {
				return nil, fmt.Errorf("evaluate %s: %w", dir, err)
			}
			var merr *multierror.Error
			for i := range mistakes {
				merr = multierror.Append(merr, &mistakes[i])
			}
			return nil, merr
		case frameConfig:
			s := &Source{Config: new(schema.Config), child: e}
			sum := sha256.Sum256(b)
			s.Digest = hex.EncodeToString(sum[:])
			r := wireReader{b: unsafe.String(unsafe.SliceData(b), len(b))} // b is not written to again
			r.value(reflect.ValueOf(s.Config).Elem())
			if r.err != nil {
				return nil, r.err
			}
			return s, nil
		default:
			return nil, fmt.Errorf("evaluate %s: the evaluator answers %q", dir, kind)
		}
	}
}

// died says why the child ended without an answer.
func (e *evaluator) died(ctx context.Context, dir string, req request, wall time.Duration) error {
	_ = e.cmd.Process.Kill() // a damaged answer is no better than none
	<-e.ended
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("evaluate %s: %w", dir, err)
	}
	state := e.cmd.ProcessState
	used := state.UserTime() + state.SystemTime()
	stderr := e.stderr
	switch {
	case bytes.Contains(stderr, []byte("stack exceeds")) || bytes.Contains(stderr, []byte("stack overflow")):
		return fmt.Errorf("evaluate %s: the configuration is nested too deeply", dir)
	case bytes.Contains(stderr, []byte("out of memory")) || bytes.Contains(stderr, []byte("cannot allocate memory")) ||
		bytes.HasPrefix(stderr, []byte("SIGSEGV")): // Go's garbage collector crashes so where it gets no memory for itself
		return fmt.Errorf("evaluate %s: the configuration needs more than %d MiB of memory (%s=MiB allows more)", dir, req.Memory>>20, memoryEnv)
	case e.timedOut.Load():
		return fmt.Errorf("evaluate %s: the configuration takes longer than %v (%s=DURATION allows more)", dir, wall, timeEnv)
	case !state.Exited() && used >= req.CPU/2: // the kernel limits what it samples at ticks, and reports what it measures
		return fmt.Errorf("evaluate %s: the configuration takes more than %v of processor time (%s=DURATION allows more)", dir, req.CPU, timeEnv)
	case bytes.Contains(stderr, []byte("panic:")):
		line, _, _ := bytes.Cut(stderr[bytes.Index(stderr, []byte("panic:")):], []byte("\n"))
		return fmt.Errorf("evaluate %s: CUE broke down on this configuration: %s", dir, line)
	case len(stderr) > 0:
		line, _, _ := bytes.Cut(stderr, []byte("\n"))
		return fmt.Errorf("evaluate %s: the evaluator ended: %s", dir, line)
	}
	return fmt.Errorf("evaluate %s: the evaluator ended: %v", dir, state)
}

// Locate gives the Problems in err, which may be a *multierror.Error, their positions in the user's files. Asking the child
// only now keeps positions free of cost where there is no mistake.
func (s *Source) Locate(err error) error {
	problems := problemsIn(err)
	if len(problems) == 0 || s.child == nil {
		return err
	}
	var paths []string
	for _, p := range problems {
		paths = append(paths, p.Path, p.Other)
	}
	s.child.mu.Lock()
	defer s.child.mu.Unlock()
	b, jerr := json.Marshal(paths)
	if jerr != nil || writeFrame(s.child.in, frameLocate, b) != nil {
		return err
	}
	kind, b, rerr := s.child.answer(context.Background(), defaultWall)
	var positions []string
	if rerr != nil || kind != framePosition || json.Unmarshal(b, &positions) != nil || len(positions) != len(paths) {
		return err // the mistake matters more than its place
	}
	for i, p := range problems {
		p.Pos, p.OtherPos = positions[2*i], positions[2*i+1]
	}
	if merr := new(multierror.Error); errors.As(err, &merr) {
		merr.ErrorFormat = formatErrors
	}
	return err
}

// limitedBuffer keeps the first bytes written to it.
type limitedBuffer []byte

func (l *limitedBuffer) Write(p []byte) (int, error) {
	*l = append(*l, p[:min(len(p), 16<<10-len(*l))]...)
	return len(p), nil
}
