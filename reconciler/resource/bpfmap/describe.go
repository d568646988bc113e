package bpfmap

import "fmt"

// Describe implements resource.Describer: "frontends.v1.65536, 9.0 MiB".
func (m Map) Describe() string {
	n := Bytes(m.Base, m.Entries)
	if m.Pin != "" || n == 0 || m.Version != Version(m.Base) {
		return m.ID().Name
	}
	return m.ID().Name + ", " + size(n)
}

func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
