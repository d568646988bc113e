package reconciler

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// savedFormat is the version of the file of a saved plan.
const savedFormat = "1"

// Basis is everything that a plan follows from. A saved plan is applied only while all of it is as it was.
type Basis struct {
	Node     string
	BootID   string
	Kernel   string
	Config   string // digest of the checked configuration; "" for a plan of destroy
	Features string // digest of the features, see DigestFeatures
	Observed *Observed
}

// SavedPlan is a plan in a file: what was planned, and what it follows from.
type SavedPlan struct {
	FormatVersion string          `json:"format_version"`
	Node          string          `json:"node"`
	BootID        string          `json:"boot_id"`
	Kernel        string          `json:"kernel"`
	Destroy       bool            `json:"destroy"`
	Config        string          `json:"config"`
	Features      string          `json:"features"`
	Observed      []savedObject   `json:"observed"`
	Plan          json.RawMessage `json:"plan"`
	Checksum      string          `json:"checksum"` // of all the above
}

// savedObject is one observed object.
type savedObject struct {
	ID     resource.ID     `json:"id"`
	Object json.RawMessage `json:"object"`
}

// DigestFeatures is the digest of what a machine can do. Of its devices only those named count: others come and go, and no
// plan follows from them.
func DigestFeatures(set *features.Set, devices []string) (string, error) {
	part := *set
	if set.Host != nil {
		facts := *set.Host
		facts.Devices = maps.Clone(facts.Devices)
		maps.DeleteFunc(facts.Devices, func(name string, _ features.Device) bool { return !slices.Contains(devices, name) })
		part.Host = &facts
	}
	b, err := json.Marshal(part)
	if err != nil {
		return "", fmt.Errorf("digest the features: %w", err)
	}
	return digest(b), nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// newSaved puts a plan and its basis into the form of the file.
func newSaved(b Basis, p *resource.Plan) (*SavedPlan, error) {
	s := &SavedPlan{
		FormatVersion: savedFormat,
		Node:          b.Node, BootID: b.BootID, Kernel: b.Kernel,
		Destroy: b.Config == "", Config: b.Config, Features: b.Features,
		Observed: []savedObject{},
	}
	observed := b.Observed.All()
	for _, id := range observed.IDs() {
		object, err := json.Marshal(observed[id])
		if err != nil {
			return nil, fmt.Errorf("save %s: %w", id, err)
		}
		s.Observed = append(s.Observed, savedObject{id, object})
	}
	plan, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("save the plan: %w", err)
	}
	s.Plan = plan
	s.Checksum, err = s.sum()
	return s, err
}

// sum is the checksum over everything but itself.
func (s *SavedPlan) sum() (string, error) {
	rest := *s
	rest.Checksum = ""
	b, err := json.Marshal(&rest)
	if err != nil {
		return "", fmt.Errorf("checksum the plan: %w", err)
	}
	return digest(b), nil
}

// SavePlan writes a plan and what it follows from into a file that only its owner reads. A file of that name is replaced
// whole or not at all.
func SavePlan(path string, b Basis, p *resource.Plan) (err error) {
	s, err := newSaved(b, p)
	if err != nil {
		return err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("save the plan: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // made with 0600
	if err != nil {
		return fmt.Errorf("save the plan: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(append(data, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("save the plan: %w", err)
	}
	return nil
}

// maxSaved bounds what is read as a plan, in bytes: about a hundred thousand objects.
const maxSaved = 256 << 20

// LoadPlan reads a saved plan, and refuses what isn't one, whole, and of this version.
func LoadPlan(path string) (*SavedPlan, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the saved plan: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read the saved plan: %s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the saved plan: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSaved+1))
	if err != nil {
		return nil, fmt.Errorf("read the saved plan: %w", err)
	}
	var version struct {
		FormatVersion *string `json:"format_version"`
	}
	var syntax *json.SyntaxError
	switch err := json.Unmarshal(data, &version); {
	case len(data) > maxSaved:
		return nil, fmt.Errorf("read the saved plan: %s is larger than any plan", path)
	case len(bytes.TrimSpace(data)) == 0:
		return nil, fmt.Errorf("read the saved plan: %s is empty", path)
	case errors.As(err, &syntax) && int(syntax.Offset) >= len(data):
		return nil, fmt.Errorf("read the saved plan: %s is cut off", path)
	case err != nil || version.FormatVersion == nil:
		return nil, fmt.Errorf("read the saved plan: %s is not a plan that plumb saved", path)
	case *version.FormatVersion != savedFormat:
		return nil, fmt.Errorf("read the saved plan: %s has format %q, this plumb reads %q; plan again", path, *version.FormatVersion, savedFormat)
	}
	s := &SavedPlan{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("read the saved plan: %s is damaged: %w", path, err)
	}
	if s.Checksum == "" {
		return nil, fmt.Errorf("read the saved plan: %s is not a plan that plumb saved (a plan for apply comes from plan --out)", path)
	}
	if sum, err := s.sum(); err != nil || sum != s.Checksum {
		return nil, fmt.Errorf("read the saved plan: %s was changed since it was saved", path)
	}
	return s, nil
}

// Check compares the saved plan with the present basis and the plan that follows from it now. What differs is named by a
// *StalePlanError; a plan of another node is an error of its own.
func (s *SavedPlan) Check(now Basis, p *resource.Plan) error {
	if s.Node != now.Node {
		return fmt.Errorf("the saved plan is for node %s, this is %s", s.Node, now.Node)
	}
	present, err := newSaved(now, p)
	if err != nil {
		return err
	}
	var differs []string
	note := func(same bool, format string, args ...any) {
		if !same {
			differs = append(differs, fmt.Sprintf(format, args...))
		}
	}
	note(s.Config == present.Config, "the configuration was changed")
	note(s.Kernel == present.Kernel, "the kernel is %s, it was %s", present.Kernel, s.Kernel)
	note(s.BootID == present.BootID, "the host was rebooted")
	note(s.Features == present.Features, "the features of the kernel or the facts of the host differ")
	moved := movedObjects(s.Observed, present.Observed)
	note(len(moved) == 0, "the observed state differs (%s)", shorten(moved, 5))
	if len(differs) == 0 {
		note(bytes.Equal(s.Plan, present.Plan), "the plan itself comes out differently (another plumb, or somebody else's objects came or went)")
	}
	if len(differs) > 0 {
		return &StalePlanError{differs}
	}
	return nil
}

// movedObjects names what came, went or changed between two observations, both in the order of their IDs.
func movedObjects(then, now []savedObject) []string {
	var moved []string
	for len(then) > 0 || len(now) > 0 {
		order := 0
		switch {
		case len(then) == 0:
			order = 1
		case len(now) == 0:
			order = -1
		default:
			order = then[0].ID.Compare(now[0].ID)
		}
		switch {
		case order < 0:
			moved = append(moved, then[0].ID.String()+" is gone")
			then = then[1:]
		case order > 0:
			moved = append(moved, now[0].ID.String()+" is new")
			now = now[1:]
		default:
			if !bytes.Equal(then[0].Object, now[0].Object) {
				moved = append(moved, then[0].ID.String()+" changed")
			}
			then, now = then[1:], now[1:]
		}
	}
	return moved
}

// shorten joins the first n of a list and counts the rest.
func shorten(list []string, n int) string {
	if len(list) <= n {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:n], ", "), len(list)-n)
}
