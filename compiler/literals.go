package compiler

import (
	"crypto/sha256"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"plumb.internal/plumb/schema"
)

// Literals evaluates a package again and again in this process, as long as all of it is literals: that takes no CUE, and
// neither more time than a few passes over the text nor more memory than a few times its size, whoever wrote it. Files that
// it has seen before cost it a checksum. Everything else is for Load and its guarded child: other packages, and all
// mistakes, which need their places. The zero value is ready; it isn't safe for concurrent use.
type Literals struct {
	seen map[[sha256.Size]byte]plainFile // the files of the last time, by content
}

// plainFile is what a file holds, without its text.
type plainFile struct {
	entries []entry
	plain   bool
}

// maxLiterals bounds the text of a package that is read here: an empty struct in a list takes three bytes of it, and seventy in
// memory. It is enough for some twenty thousand services.
const maxLiterals = 4 << 20

// Load returns the configuration that Load would, or nil where it can't tell.
func (l *Literals) Load(dir string, tags []string) *schema.Config {
	dir, err := filepath.Abs(dir)
	if err != nil || len(tags) > 0 {
		return nil
	}
	e := &evaluation{request: request{Dir: dir, Cwd: dir}, reader: &reader{most: maxLiterals}, reading: func(time.Duration) error { return nil }}
	if len(e.find()) > 0 || !l.read(e) {
		return nil
	}
	h, absent := merge(e.files)
	for _, c := range h.entries {
		if c.stay {
			return nil
		}
	}
	for _, name := range absent {
		delete(h.entries, name)
	}
	config := new(schema.Config)
	r := wireReader{b: string(h.wire(new(schema.Config)))}
	if r.value(reflect.ValueOf(config).Elem()); r.err != nil {
		return nil
	}
	return config
}

// read finds out what the files hold, and tells whether all of that is literals.
func (l *Literals) read(e *evaluation) bool {
	seen := make(map[[sha256.Size]byte]plainFile, len(e.files))
	all := true
	for _, f := range e.files {
		sum := sha256.Sum256([]byte(f.source))
		was, ok := l.seen[sum]
		if !ok {
			was.plain = plainEntries(f)
			was.entries = f.entries
			for i := range was.entries {
				was.entries[i].file = nil
				was.entries[i].key = strings.Clone(was.entries[i].key) // a part of the text, which isn't kept
			}
		}
		seen[sum] = was
		f.entries = slices.Clone(was.entries) // merging changes them
		all = all && was.plain
	}
	l.seen = seen
	// A file of another package in the folder is a mistake, and those in the folders above aren't plain.
	return all && (len(e.vendored) > 0 || slices.ContainsFunc(e.files, func(f *sourceFile) bool { return filepath.Dir(f.name) == e.Dir }))
}
