package rule

import "fmt"

// Describe implements resource.Describer: "1000: from 10.0.0.10/32 lookup 112".
func (r Rule) Describe() string {
	return fmt.Sprintf("%d: from %s lookup %d", r.Priority, r.Src, r.Table)
}
