package cli

import (
	"encoding/json"
	"fmt"
	"strings"
)

// writeJSON writes one value, indented.
func (o *Options) writeJSON(v any) error {
	enc := json.NewEncoder(o.Out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// list is a cell of a table.
func list[T any](items []T) string {
	if len(items) == 0 {
		return "-"
	}
	words := make([]string, len(items))
	for i, item := range items {
		words[i] = fmt.Sprint(item)
	}
	return strings.Join(words, " ")
}

// orDash makes an empty cell of a table visible.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
