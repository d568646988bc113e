package resource

import (
	"bytes"
	"encoding/json"
	"io"
)

// planFormat is the version of the JSON form of a plan. It changes when a key changes its meaning or goes.
const planFormat = "1"

// MarshalJSON writes the plan as `plan -o json` prints it. Lists are never null.
func (p Plan) MarshalJSON() ([]byte, error) {
	changes := make([]Change, len(p.Changes))
	for i, c := range p.Changes {
		c.Fields = present(c.Fields)
		changes[i] = c
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // reasons hold "->"
	err := enc.Encode(struct {
		FormatVersion string     `json:"format_version"`
		Node          string     `json:"node"`
		Kernel        string     `json:"kernel"`
		Changes       []Change   `json:"changes"`
		Conflicts     []Conflict `json:"conflicts"`
		Choices       []Choice   `json:"choices"`
		Warnings      []string   `json:"warnings"`
		Summary       Summary    `json:"summary"`
	}{
		planFormat, p.Node, p.Kernel,
		changes, present(p.Conflicts), present(p.Choices), present(p.Warnings), p.Summary(),
	})
	return b.Bytes(), err
}

// WriteJSON writes the plan's JSON form, indented, for people as for scripts.
func (p *Plan) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(p)
}

// present returns list, or an empty one for nil: scripts that read the JSON need no case for null.
func present[E any](list []E) []E {
	if list == nil {
		return []E{}
	}
	return list
}
