package features

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// cacheFile is what [Cached] keeps: answers that hold as long as the key does.
type cacheFile struct {
	Key      string             `json:"key"`
	Features map[Feature]Status `json:"features"`
}

// Cached is [Probe] with the answers of the features kept in the file at path. They are used again by the same binary
// with the same capabilities until the kernel is booted again; refresh asks anew, which a module installed since then
// needs. The facts of the host are always read. When the file holds the answers nothing at all is written. A file that
// can't be written is no error: it costs the next caller a probe, and the answers are the same.
func Cached(ctx context.Context, path string, refresh bool) (*Set, error) {
	key, err := cacheKey()
	if err != nil {
		return nil, err
	}
	if !refresh {
		if set, err := readCache(path, key); set != nil || err != nil {
			return set, err
		}
	}
	set, err := Probe(ctx)
	if err != nil {
		return nil, err
	}
	_ = writeCache(path, cacheFile{Key: key, Features: set.Features})
	return set, nil
}

// readCache returns nil where the file is missing, damaged or about something else: then it is written anew.
func readCache(path, key string) (*Set, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil
	}
	var c cacheFile
	if json.Unmarshal(data, &c) != nil || c.Key != key {
		return nil, nil
	}
	set, err := newSet()
	if err != nil {
		return nil, err
	}
	set.Features = c.Features
	if err := set.addHost(); err != nil {
		return nil, err
	}
	return set, nil
}

// writeCache replaces the file in one step, so that a reader never sees half of it.
func writeCache(path string, c cacheFile) error {
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode feature cache: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("create folder of feature cache: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write feature cache: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write feature cache: %w", err)
	}
	return nil
}

// cacheKey names the boot, the kernel, the binary and the privileges that answers hold for.
func cacheKey() (string, error) {
	h := sha256.New()
	for _, path := range []string{"/proc/sys/kernel/random/boot_id", "/proc/sys/kernel/osrelease"} {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("find key of feature cache: %w", err)
		}
		h.Write(data)
	}
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return "", fmt.Errorf("find key of feature cache: %w", err)
	}
	for line := range bytes.Lines(status) {
		if bytes.HasPrefix(line, []byte("CapEff:")) {
			h.Write(line)
		}
	}
	if err := binaryID(h); err != nil {
		return "", fmt.Errorf("find key of feature cache: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// binaryID writes what tells this binary from every other: the build id, which the linker makes from its contents, else
// all of it. Small boards hash a whole binary in half a second, which every command would pay.
func binaryID(w io.Writer) error {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer f.Close()
	if e, err := elf.NewFile(f); err == nil {
		if s := e.Section(".note.go.buildid"); s != nil {
			if id, err := s.Data(); err == nil && len(id) > 32 {
				_, err = w.Write(id)
				return err
			}
		}
	}
	_, err = io.Copy(w, f)
	return err
}
