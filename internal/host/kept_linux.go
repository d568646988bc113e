package host

// Kept returns what a kind keeps in memory for as long as the host is open; fresh makes it the first time. It is for what
// gathers work or saves some: what is comes from the kernel, and what should be from the files.
func (h *Host) Kept(key any, fresh func() any) any {
	if v, ok := h.kept.Load(key); ok {
		return v
	}
	v, _ := h.kept.LoadOrStore(key, fresh())
	return v
}
