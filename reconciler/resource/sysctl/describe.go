package sysctl

// Describe implements resource.Describer, as sysctl(8) prints it: "net.ipv4.ip_forward = 1".
func (s Sysctl) Describe() string { return s.Key + " = " + s.Value }
