package features

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const good = `{
  "format_version": "1",
  "kernel": "6.1.0",
  "arch": "arm64",
  "features": {
    "link.veth": {"supported": true, "reason": "creating a veth pair: works", "since": "2.6.24"},
    "bpf.tcx": {"supported": false, "reason": "attaching a program by tcx: not supported", "since": "6.6"},
    "nft": {"supported": null, "reason": "not tried"},
    "a.later.feature": {"supported": true, "reason": "works", "since": "9.1"}
  },
  "host": {
    "memory_bytes": 1073741824,
    "cpus": 4,
    "devices": {"eth0": {"mtu": 1500, "driver": "bcmgenet", "xdp": "generic", "reason": "no native XDP"}}
  }
}
`

func write(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "f.json")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadFile(t *testing.T) {
	set, err := ReadFile(write(t, good))
	if err != nil {
		t.Fatal(err)
	}
	for f, want := range map[Feature]bool{"link.veth": true, "bpf.tcx": false, "nft": false, "a.later.feature": true, "unheard": false} {
		if set.Supports(f) != want {
			t.Errorf("Supports(%s) is %v, expected %v", f, !want, want)
		}
	}
	if set.Host.Devices["eth0"].Driver != "bcmgenet" || set.Host.MemoryBytes != 1<<30 {
		t.Errorf("host facts are %+v", set.Host)
	}
	var out bytes.Buffer
	if err := set.WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	again, err := ReadFile(write(t, out.String()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(set, again); diff != "" {
		t.Errorf("written and read back (-before +after):\n%s", diff)
	}
}

func TestReadFileErrors(t *testing.T) {
	edit := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the good file has no %s", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, c := range map[string]struct{ text, want string }{
		"empty":          {"", "f.json: empty: expected the output of `plumb features -o json`"},
		"not JSON":       {edit(`"arch":`, `arch:`), "f.json:4:3: not JSON: invalid character 'a' looking for beginning of object key string"},
		"cut short":      {good[:60], "f.json:4:12: not JSON: unexpected end of JSON input"},
		"another file":   {"{}", "format_version is missing: expected \"1\""},
		"list":           {"[]", "f.json:1:1: the file is a JSON array, expected an object"},
		"later format":   {edit(`"format_version": "1"`, `"format_version": "2"`), "f.json: format_version is \"2\": this version reads \"1\""},
		"no kernel":      {edit(`"kernel": "6.1.0",`, ``), "f.json: kernel is missing"},
		"no arch":        {edit(`"arch": "arm64",`, ``), "f.json: arch is missing"},
		"no features":    {`{"format_version":"1","kernel":"6.1","arch":"amd64"}`, "f.json: features is missing"},
		"word for bool":  {edit(`"supported": true`, `"supported": "yes"`), "f.json:6:36: features.supported is a JSON string, expected true, false or null"},
		"word for count": {edit(`"cpus": 4`, `"cpus": "four"`), "host.cpus is a JSON string, expected a whole number"},
		"no memory":      {edit(`1073741824`, `0`), "f.json: host.memory_bytes is 0: expected a positive number of bytes"},
		"no cpus":        {edit(`"cpus": 4`, `"cpus": 0`), "f.json: host.cpus is 0"},
		"no mtu":         {edit(`"mtu": 1500`, `"mtu": -1`), "f.json: host.devices.eth0.mtu is -1"},
		"odd xdp":        {edit(`"xdp": "generic"`, `"xdp": "fast"`), `f.json: host.devices.eth0.xdp is "fast": expected "native", "generic" or "none"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadFile(write(t, c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v\nexpected  %s", err, c.want)
			}
		})
	}
}

func TestReadFileReportsAllMistakes(t *testing.T) {
	_, err := ReadFile(write(t, `{"format_version":"1","features":{}}`))
	if err == nil || !strings.Contains(err.Error(), "kernel is missing") || !strings.Contains(err.Error(), "arch is missing") {
		t.Errorf("error is %v, expected both mistakes", err)
	}
}

func TestReadFileRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:                           "not a regular file",
		fifo:                          "not a regular file",
		filepath.Join(dir, "missing"): "no such file or directory",
	} {
		if _, err := ReadFile(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("reading %s: error is %v, expected %q", path, err, want)
		}
	}
}

func TestTable(t *testing.T) {
	set, err := ReadFile(write(t, good))
	if err != nil {
		t.Fatal(err)
	}
	set.Note = "written by hand"
	var out bytes.Buffer
	if err := set.Table(&out); err != nil {
		t.Fatal(err)
	}
	want := `kernel 6.1.0 arm64

FEATURE          ANSWER   SINCE   REASON
a.later.feature  yes      9.1     works
bpf.tcx          no       6.6     attaching a program by tcx: not supported
link.veth        yes      2.6.24  creating a veth pair: works
nft              unknown  -       not tried

memory 1024 MiB, 4 CPUs

DEVICE  MTU   DRIVER    XDP      REASON
eth0    1500  bcmgenet  generic  no native XDP

note: written by hand
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}
