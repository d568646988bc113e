package vmtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Root is the root file system of a machine: files by their path in the guest, without the leading slash.
type Root struct {
	files map[string]file
}

type file struct {
	mode uint32
	data []byte // or, to keep large ones out of memory:
	host string
}

// NewRoot returns a root that holds what every machine needs beside its init.
func NewRoot() *Root {
	r := &Root{files: map[string]file{}}
	r.PutBytes("etc/hosts", []byte("127.0.0.1 localhost\n::1 localhost\n"))
	r.PutBytes("etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"))
	r.PutBytes("etc/group", []byte("root:x:0:\nnogroup:x:65534:\n"))
	return r
}

// PutBytes adds a file.
func (r *Root) PutBytes(guest string, data []byte) {
	r.files[clean(guest)] = file{mode: 0o100644, data: data}
}

// Put adds a file of the host, or a folder with all regular files in it. skip, where it isn't nil, leaves out what it
// answers true for; it is asked with the path inside the folder.
func (r *Root) Put(host, guest string, skip func(rel string) bool) error {
	return filepath.WalkDir(host, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("pack %s: %w", host, err)
		}
		rel, err := filepath.Rel(host, p)
		if err != nil {
			return fmt.Errorf("pack %s: %w", host, err)
		}
		if skip != nil && skip(rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		st, err := os.Stat(p) // a symbolic link goes as what it points to
		if err != nil || !st.Mode().IsRegular() {
			return nil
		}
		r.files[clean(path.Join(guest, filepath.ToSlash(rel)))] = file{mode: 0o100000 | uint32(st.Mode().Perm()), host: p}
		return nil
	})
}

var library = regexp.MustCompile(`(?m)(/\S+) \(0x`)

// PutProgram adds a program of the host to /bin, along with the shared libraries that it is linked to.
func (r *Root) PutProgram(name string) error {
	p, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("pack program: %w", err)
	}
	if err := r.Put(p, path.Join("bin", filepath.Base(name)), nil); err != nil {
		return err
	}
	out, err := exec.Command("ldd", p).CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "not a dynamic executable") {
			return nil
		}
		return fmt.Errorf("find shared libraries of %s: %w: %s", name, err, out)
	}
	for _, m := range library.FindAllStringSubmatch(string(out), -1) {
		if err := r.Put(m[1], m[1], nil); err != nil {
			return err
		}
	}
	return nil
}

// PutTools adds the programs that came with a kernel of another architecture.
func (r *Root) PutTools(dir string) error {
	return r.Put(dir, "", func(rel string) bool {
		// A link by an absolute path would lead to a program of this machine; documents and locales are of no use.
		target, err := os.Readlink(filepath.Join(dir, rel))
		return err == nil && filepath.IsAbs(target) || rel == "usr/share" || filepath.Base(rel) == "gconv"
	})
}

// PutJob adds the job, the kernel's modules, and its build options where programs look for them.
func (r *Root) PutJob(k *Kernel, job Job) error {
	mods, err := k.load(modules)
	if err != nil {
		return err
	}
	for _, m := range mods {
		job.Modules = append(job.Modules, m.name)
		r.PutBytes("modules/"+m.name, m.data)
	}
	if err := r.Put(k.Config, "boot/"+filepath.Base(k.Config), nil); err != nil {
		return err
	}
	data, err := json.Marshal(job)
	if err != nil {
		return fmt.Errorf("encode job: %w", err)
	}
	r.PutBytes("job.json", data)
	return nil
}

// Write writes the root in the kernel's initramfs format: cpio, "newc", folders before what they hold.
func (r *Root) Write(w io.Writer) error {
	buf := bufio.NewWriterSize(w, 1<<20)
	c := &cpio{w: buf}
	dirs := map[string]bool{".": true}
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		var missing []string
		for d := path.Dir(name); !dirs[d]; d = path.Dir(d) {
			dirs[d] = true
			missing = append(missing, d)
		}
		for _, d := range slices.Backward(missing) {
			c.entry(d, 0o040755, nil)
		}
		f := r.files[name]
		if f.host != "" {
			data, err := os.ReadFile(f.host)
			if err != nil {
				return fmt.Errorf("pack initramfs: %w", err)
			}
			f.data = data
		}
		c.entry(name, f.mode, f.data)
	}
	c.entry("TRAILER!!!", 0, nil)
	if c.err != nil {
		return fmt.Errorf("pack initramfs: %w", c.err)
	}
	return buf.Flush()
}

// cpio writes one archive; after the first error it does nothing.
type cpio struct {
	w   io.Writer
	n   int // bytes written, for alignment
	ino int
	err error
}

func (c *cpio) entry(name string, mode uint32, data []byte) {
	c.ino++
	// magic, inode, mode, uid, gid, links, mtime, size, device (2), device file (2), length of the name, checksum
	c.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0))
	c.write(append([]byte(name), 0))
	c.align()
	c.write(data)
	c.align()
}

func (c *cpio) align() { c.write(make([]byte, (4-c.n%4)%4)) }

func (c *cpio) write(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(b)
		c.n += len(b)
	}
}

func clean(guest string) string { return strings.TrimPrefix(path.Clean("/"+guest), "/") }
