package netns

// Describe implements resource.Describer: "web", or "db adopted /proc/4242/ns/net".
func (n NetNS) Describe() string {
	if n.Path != "" {
		return n.Name + " adopted " + n.Path
	}
	return n.Name
}

// Borrowed implements resource.Borrower: an adopted namespace stays when plumb lets go of it.
func (n NetNS) Borrowed() bool { return n.Path != "" }
