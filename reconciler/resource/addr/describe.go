package addr

// Describe implements resource.Describer: "10.0.0.10/32 dev eth0".
func (a Addr) Describe() string { return a.Prefix.String() + " dev " + a.Dev }
