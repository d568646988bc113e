package neigh

// Describe implements resource.Describer: "169.254.10.24 dev eth0 lladdr 02:00:00:00:00:01 nud permanent".
func (n Neigh) Describe() string {
	if n.Proxy {
		return "proxy " + n.IP.String() + " dev " + n.Dev
	}
	return n.IP.String() + " dev " + n.Dev + " lladdr " + n.MAC + " nud permanent"
}
