package history

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// User is who asks: the user of sudo, else who logged in, else who runs this; numbers where there are no names.
func User() string {
	if u := os.Getenv("SUDO_USER"); u != "" {
		return cleanName(u)
	}
	if id, err := os.ReadFile("/proc/self/loginuid"); err == nil {
		if u := strings.TrimSpace(string(id)); u != "" && u != nobody {
			return userName(u)
		}
	}
	return userName(strconv.Itoa(os.Getuid()))
}

// nobody is the login of what no login started: a service.
const nobody = "4294967295"

// userName looks a user up in the file that every machine has: a name server may need the network.
func userName(id string) string {
	b, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return id
	}
	for line := range strings.Lines(string(b)) {
		// root:x:0:0:root:/root:/bin/bash
		if f := strings.Split(line, ":"); len(f) > 2 && f[2] == id {
			return f[0]
		}
	}
	return id
}

// cleanName drops what no name of a user has: it is printed on terminals.
func cleanName(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
}

var hash = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// Commit is the commit that is checked out in the git repository that dir is in, read from its files: git itself may not be
// installed, and refuses the repositories of other users. It is "" where there is none.
func Commit(dir string) string {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	for {
		if git := gitDir(filepath.Join(dir, ".git")); git != "" {
			return head(git)
		}
		up := filepath.Dir(dir)
		if up == dir {
			return ""
		}
		dir = up
	}
}

// gitDir follows the file that a work tree has in the place of the folder.
func gitDir(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	if info.IsDir() {
		return path
	}
	to, ok := strings.CutPrefix(line(path), "gitdir: ")
	if !ok {
		return ""
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(filepath.Dir(path), to)
	}
	return to
}

// head follows HEAD to a commit.
func head(git string) string {
	common := git // of a work tree, branches are in the main repository
	if to := line(filepath.Join(git, "commondir")); to != "" {
		if common = to; !filepath.IsAbs(to) {
			common = filepath.Join(git, to)
		}
	}
	at := line(filepath.Join(git, "HEAD"))
	for range 5 {
		ref, ok := strings.CutPrefix(at, "ref: ")
		if !ok {
			break
		}
		if !strings.HasPrefix(ref, "refs/") || !filepath.IsLocal(ref) {
			return ""
		}
		if at = line(filepath.Join(common, ref)); at == "" {
			at = packed(filepath.Join(common, "packed-refs"), ref)
		}
	}
	if !hash.MatchString(at) {
		return ""
	}
	return at
}

// packed looks a branch up among those that have no file of their own.
func packed(path, ref string) string {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Size() > 64<<20 {
		return ""
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for l := range strings.Lines(string(b)) {
		if at, name, _ := strings.Cut(strings.TrimSpace(l), " "); name == ref {
			return at
		}
	}
	return ""
}

// line reads a file of one line, "" where it isn't one.
func line(path string) string {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Size() > 4096 {
		return ""
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
