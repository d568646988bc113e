package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"plumb.internal/plumb/internal/host"
)

// Reverted says which configuration was taken back last, and why. A daemon must not put it in force again as long as the
// files say the same.
type Reverted struct {
	Time   time.Time `json:"time"`
	Why    string    `json:"why"`
	Digest string    `json:"digest"` // of the configuration, see history.Digest
	Apply  Process   `json:"apply"`  // that was taken back
}

func (r *Reverted) Error() string {
	return fmt.Sprintf("this configuration was taken back at %s (%s): change the files, or let plumb apply put it in force",
		r.Time.Local().Format(time.DateTime), r.Why)
}

// revertedFile is in the run folder: a reboot forgets it.
const revertedFile = "reverted.json"

// LastReverted reads what was taken back last; nil where something was applied since, or nothing was ever taken back.
func LastReverted(h *host.Host) (*Reverted, error) {
	data, err := os.ReadFile(h.Path(revertedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	r := &Reverted{}
	if err == nil {
		err = json.Unmarshal(data, r)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", h.Path(revertedFile), err)
	}
	return r, nil
}

// Forget drops the note of what was taken back: something was applied since. The caller has the lock.
func Forget(h *host.Host) error {
	if _, err := os.Lstat(h.Path(revertedFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	h.Wrote("remove %s", h.Path(revertedFile))
	if err := os.Remove(h.Path(revertedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget what was taken back: %w", err)
	}
	return nil
}

// note writes down what is being taken back.
func note(h *host.Host, p *Pending, why string) error {
	r := Reverted{Time: time.Now().UTC().Truncate(time.Second), Why: why, Apply: p.Apply}
	if p.Revision != nil {
		r.Digest = p.Revision.Digest
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	h.Wrote("write %s", h.Path(revertedFile))
	if err := h.WriteFile(h.Path(revertedFile), data); err != nil {
		return fmt.Errorf("note what was taken back: %w", err)
	}
	return nil
}
