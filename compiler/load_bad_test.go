package compiler

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write what the tests get as what they want")

// TestBad loads every repository in testdata/bad, and compiles what loads. Each is a txtar archive: lines of its comment that
// begin with ">" are carried out first (see prepare), its files are the repository, and its file "error" is the exact text of
// the error.
func TestBad(t *testing.T) {
	names, err := filepath.Glob("testdata/bad/*.txtar")
	if err != nil || len(names) < 60 {
		t.Fatalf("%d cases, %v", len(names), err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			root := t.TempDir()
			dir := filepath.Join(root, "repo")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			want := ""
			for _, f := range a.Files {
				if f.Name == "error" {
					want = string(f.Data)
					continue
				}
				writeFile(t, filepath.Join(dir, f.Name), f.Data)
			}
			c := badCase{dir: dir, node: ""}
			for line := range strings.Lines(string(a.Comment)) {
				if words, ok := strings.CutPrefix(line, "> "); ok {
					c.prepare(t, root, strings.Fields(words))
				}
			}
			got := "no error\n"
			if err := c.load(t); err != nil {
				got = strings.TrimRight(strings.ReplaceAll(err.Error(), c.dir+"/", ""), "\n") + "\n"
				got = strings.ReplaceAll(got, root, "ROOT")
			}
			if *update {
				kept := a.Files[:0]
				for _, f := range a.Files {
					if f.Name != "error" {
						kept = append(kept, f)
					}
				}
				a.Files = append(kept, txtar.File{Name: "error", Data: []byte(got)})
				if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != want {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
			if got == "no error\n" {
				t.Error("a bad repository is taken for a good one")
			}
		})
	}
}

type badCase struct {
	dir  string
	tags []string
	node string
}

func (c *badCase) load(t *testing.T) error {
	s, err := Load(t.Context(), c.dir, c.tags)
	if err != nil {
		return err
	}
	defer s.Close()
	if c.node == "" && len(s.Config.Nodes) > 0 {
		c.node = sortedNodes(s.Config)[0]
	}
	_, err = Compile(s.Config, c.node, acceptAll())
	return s.Locate(err)
}

// prepare carries out one line: tag KEY=VALUE, node NAME, cd FOLDER, or something that an archive can't hold.
func (c *badCase) prepare(t *testing.T, root string, words []string) {
	t.Helper()
	in := func(i int) string { return filepath.Join(root, "repo", words[i]) }
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	switch words[0] {
	case "tag":
		c.tags = append(c.tags, words[1])
	case "node":
		c.node = words[1]
	case "cd":
		c.dir = in(1)
	case "mkdir":
		check(os.MkdirAll(in(1), 0o755))
	case "fifo":
		check(unix.Mkfifo(in(1), 0o644))
	case "socket":
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		check(err)
		old := in(1)
		// The path of a socket has 108 bytes at most.
		short, err := os.MkdirTemp("/tmp", "s")
		check(err)
		t.Cleanup(func() { os.RemoveAll(short) })
		check(unix.Bind(fd, &unix.SockaddrUnix{Name: short + "/s"}))
		check(unix.Close(fd))
		check(os.Rename(short+"/s", old))
	case "symlink":
		check(os.Symlink(words[2], in(1)))
	case "big":
		n, err := strconv.ParseInt(words[2], 10, 64)
		check(err)
		f, err := os.Create(in(1))
		check(err)
		check(f.Truncate(n))
		check(f.Close())
	case "many":
		n, err := strconv.Atoi(words[1])
		check(err)
		for i := range n {
			writeFile(t, filepath.Join(c.dir, fmt.Sprintf("f%05d.cue", i)), []byte("package plumb\n"))
		}
	case "hex":
		b, err := hex.DecodeString(strings.Join(words[2:], ""))
		check(err)
		writeFile(t, in(1), b)
	default:
		t.Fatalf("no rule for %q", words)
	}
}

func writeFile(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}
