package features

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/hashicorp/go-multierror"
)

// FormatVersion is the version of the file that a [Set] is written to.
const FormatVersion = "1"

// maxFileSize is far above what any machine's answers need. It keeps a wrong path from filling memory.
const maxFileSize = 4 << 20

// ReadFile reads the answers of another machine, as [Set.WriteJSON] writes them. Errors name the file, the line where it
// isn't JSON, and every field that is missing or wrong. Features that this version doesn't know are kept.
func ReadFile(path string) (*Set, error) {
	// Opening a FIFO would wait for a writer, so look first.
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read features file: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("read features file %s: not a regular file", path)
	}
	if st.Size() > maxFileSize {
		return nil, fmt.Errorf("read features file %s: %d bytes are too many for a features file", path, st.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read features file: %w", err)
	}
	return parse(path, data)
}

// ReadFolder reads the answers of all machines in a folder, in the order of the files' names.
func ReadFolder(folder string) ([]*Set, error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err == nil && len(paths) == 0 {
		err = errors.New("no features files there")
	}
	if err != nil {
		return nil, fmt.Errorf("read folder %s: %w", folder, err)
	}
	var sets []*Set
	for _, path := range paths {
		s, err := ReadFile(path)
		if err != nil {
			return nil, err
		}
		sets = append(sets, s)
	}
	return sets, nil
}

func parse(path string, data []byte) (*Set, error) {
	var s Set
	if err := json.Unmarshal(data, &s); err != nil {
		var syntax *json.SyntaxError
		var typ *json.UnmarshalTypeError
		switch {
		case len(bytes.TrimSpace(data)) == 0:
			return nil, fmt.Errorf("%s: empty: expected the output of `plumb features -o json`", path)
		case errors.As(err, &syntax):
			return nil, fmt.Errorf("%s: not JSON: %w", position(path, data, syntax.Offset), err)
		case errors.As(err, &typ):
			field := cmp.Or(typ.Field, "the file")
			return nil, fmt.Errorf("%s: %s is a JSON %s, expected %s", position(path, data, typ.Offset), field, typ.Value, jsonName(typ.Type.String()))
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := s.Validate(); err != nil {
		var all *multierror.Error
		if errors.As(err, &all) {
			for i, e := range all.Errors {
				all.Errors[i] = fmt.Errorf("%s: %w", path, e)
			}
		}
		return nil, err
	}
	return &s, nil
}

// Validate reports every field that is missing or wrong. Unknown feature names are fine: the file may come from an older
// or a newer version.
func (s *Set) Validate() error {
	var errs *multierror.Error
	wrong := func(format string, args ...any) { errs = multierror.Append(errs, fmt.Errorf(format, args...)) }
	switch s.FormatVersion {
	case FormatVersion:
	case "":
		wrong("format_version is missing: expected %q, as `plumb features -o json` writes it", FormatVersion)
	default:
		wrong("format_version is %q: this version reads %q", s.FormatVersion, FormatVersion)
	}
	if s.Kernel == "" {
		wrong("kernel is missing: expected the kernel release, such as \"6.1.0-50-amd64\"")
	}
	if s.Arch == "" {
		wrong("arch is missing: expected an architecture, such as \"amd64\" or \"arm64\"")
	}
	if s.Features == nil {
		wrong("features is missing: expected an object that maps feature names to answers")
	}
	if h := s.Host; h != nil {
		if h.MemoryBytes <= 0 {
			wrong("host.memory_bytes is %d: expected a positive number of bytes", h.MemoryBytes)
		}
		if h.CPUs <= 0 {
			wrong("host.cpus is %d: expected a positive number", h.CPUs)
		}
		for _, name := range sortedKeys(h.Devices) {
			d := h.Devices[name]
			if d.MTU <= 0 {
				wrong("host.devices.%s.mtu is %d: expected a positive number of bytes", name, d.MTU)
			}
			if !slices.Contains([]string{"native", "generic", "none"}, d.XDP) {
				wrong("host.devices.%s.xdp is %q: expected \"native\", \"generic\" or \"none\"", name, d.XDP)
			}
		}
	}
	return errs.ErrorOrNil()
}

// WriteJSON writes the set as the file that [ReadFile] reads.
func (s *Set) WriteJSON(w io.Writer) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode features: %w", err)
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

// Table writes the set for people: one line a feature, then the facts of the host.
func (s *Set) Table(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(tw, "kernel %s %s\n\n", s.Kernel, s.Arch)
	fmt.Fprintf(tw, "FEATURE\tANSWER\tSINCE\tREASON\n")
	for _, f := range sortedKeys(s.Features) {
		st := s.Features[f]
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", f, st.answer(), cmp.Or(st.Since, "-"), st.Reason)
	}
	if h := s.Host; h != nil {
		fmt.Fprintf(tw, "\nmemory %d MiB, %d CPUs\n", h.MemoryBytes>>20, h.CPUs)
		if c := h.Congestion; c != nil {
			fmt.Fprintf(tw, "congestion control %s; of pods %s\n", strings.Join(c.Available, ", "), strings.Join(c.Allowed, ", "))
		}
		if h.Preempt != "" {
			fmt.Fprintf(tw, "preemption %s\n", h.Preempt)
		}
		h.machine(tw)
		fmt.Fprintln(tw)
		fmt.Fprintf(tw, "DEVICE\tMTU\tDRIVER\tXDP\tREASON\n")
		for _, name := range sortedKeys(h.Devices) {
			d := h.Devices[name]
			drv := cmp.Or(d.Driver, "-")
			if d.Wireless {
				drv += " (Wi-Fi)"
			}
			fmt.Fprintf(tw, "%s\t%d\t%s\t%s\t%s\n", name, d.MTU, drv, d.XDP, d.Reason)
		}
	}
	if s.Note != "" {
		fmt.Fprintf(tw, "\nnote: %s\n", s.Note)
	}
	return tw.Flush()
}

func (st Status) answer() string {
	switch {
	case st.Supported == nil:
		return "unknown"
	case *st.Supported:
		return "yes"
	}
	return "no"
}

// position is file:line:col of a byte offset.
func position(path string, data []byte, offset int64) string {
	before := data[:min(max(offset-1, 0), int64(len(data)))]
	line := bytes.Count(before, []byte("\n")) + 1
	col := len(before) - (bytes.LastIndexByte(before, '\n') + 1) + 1
	return fmt.Sprintf("%s:%d:%d", path, line, col)
}

// jsonName names a Go type the way that JSON does.
func jsonName(goType string) string {
	switch {
	case strings.HasPrefix(goType, "map["), strings.Contains(goType, "."):
		return "an object"
	case strings.HasSuffix(goType, "bool"):
		return "true, false or null"
	case strings.HasPrefix(goType, "int"):
		return "a whole number"
	}
	return "a " + goType
}

func sortedKeys[K ~string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
