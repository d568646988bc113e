package compiler

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

// Check is one statement on reachability. Who makes it is the node that the source is on.
type Check struct {
	Name     string
	From, To string // as people read them: "pod client", "service web port http"

	// The source: a pod, else a namespace by its path, else the node's root namespace.
	Pod, NetNS string

	Type string // tcp, udp, http or icmp
	// Targets are all to be reached. Those of a family that the source doesn't speak are left out if it is a pod. Without
	// any they are the addresses of Host, which the source asks its name servers for, at Port.
	Targets []netip.AddrPort
	Host    string
	Port    uint16
	HTTP    schema.CheckHTTP
	UDP     schema.CheckUDP

	Unreachable bool          // what is expected
	Within      time.Duration // 0: the files don't say

	// Needs are the objects of this node that the check is about: where one wasn't there, it couldn't hold.
	Needs []resource.ID
}

// Types of checks.
const (
	typeTCP  = "tcp"
	typeUDP  = "udp"
	typeHTTP = "http"
	typeICMP = "icmp"
)

// Limits of a check's time.
const (
	minWithin = 10 * time.Millisecond
	maxWithin = 10 * time.Minute
)

// check is one check whose words have been found to make sense.
type check struct {
	Check
	path    string
	node    *node
	from    *pod     // nil: not a pod
	pod     *pod     // what it is about: one of these four, or Targets or Host of the Check
	service *service //
	port    servicePort
	to      *node
}

// readChecks checks all that is said of checks, but for addresses that aren't given yet.
func (f *fleet) readChecks() {
	if len(f.nodes) == 0 {
		return // said
	}
	for _, name := range slices.Sorted(maps.Keys(f.cfg.Checks)) {
		c := &check{path: field("checks", name)}
		c.Name = name
		before := len(f.list)
		d := f.cfg.Checks[name]
		c.HTTP, c.UDP, c.Unreachable = d.HTTP, d.UDP, d.Expect == "unreachable"
		f.readSource(c, d.From)
		port, named := f.readPort(c, d.To)
		f.readTarget(c, d, port, named)
		if len(f.list) == before {
			f.readType(c, d, port)
		}
		f.readWords(c, d)
		if len(f.list) == before {
			f.checks = append(f.checks, c)
		}
	}
}

// ends lists the names of the fields that are set among those of an end of a check.
func ends(e schema.Endpoint, names ...string) (set []string) {
	values := map[string]string{"pod": e.Pod, "node": e.Node, "netns": e.NetNS, "service": e.Service, "address": e.Address, "name": e.Name}
	for _, n := range names {
		if values[n] != "" {
			set = append(set, n)
		}
	}
	return set
}

func (f *fleet) readSource(c *check, e schema.Endpoint) {
	path := c.path + ".from"
	if wrong := ends(e, "service", "address", "name"); len(wrong) > 0 {
		f.add(path+"."+wrong[0], "", "a check is made from a pod, a node or a netns")
		return
	}
	if e.Port != nil {
		f.add(path+".port", "", "a check is made from any port; name the port in to")
	}
	named := f.node(e.Node)
	if e.Node != "" && named == nil {
		f.add(path+".node", "", "no node is named %q; %s", e.Node, f.declaredNodes())
		return
	}
	switch set := ends(e, "pod", "netns"); {
	case len(set) == 2:
		f.add(path+".netns", path+".pod", "a check is made from one place: a pod, a node or a netns")
	case e.Pod != "":
		c.From = "pod " + e.Pod
		c.Pod = e.Pod
		if c.from = f.pod(e.Pod); c.from == nil {
			f.add(path+".pod", "", "no pod is named %q", e.Pod)
		} else if c.node = c.from.node; e.Node != "" && c.node != nil && c.node != named {
			f.add(path+".node", c.from.path, "pod %s is on node %s", e.Pod, c.node.name)
		}
	case e.NetNS != "":
		c.From = "netns " + e.NetNS
		c.NetNS = e.NetNS
		if c.node = named; c.node == nil && len(f.nodes) == 1 {
			c.node = f.nodes[0]
		}
		if c.node == nil {
			f.add(path, "", "node is missing, and there is more than one: %s", f.declaredNodes())
		}
	case e.Node != "":
		c.From, c.node = "node "+e.Node, named
	default:
		f.add(path, "", "name a pod, a node or a netns")
	}
}

// node finds a node by its name; nil if there is none.
func (f *fleet) node(name string) *node {
	for _, n := range f.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

func (f *fleet) declaredNodes() string { return declared(slices.Sorted(maps.Keys(f.cfg.Nodes))) }

// readPort reads the port that is asked: a number, or the name of a service's. It was through JSON, perhaps.
func (f *fleet) readPort(c *check, e schema.Endpoint) (port int, name string) {
	path := c.path + ".to.port"
	switch v := e.Port.(type) {
	case nil:
		return 0, ""
	case int:
		port = v
	case float64:
		port = int(v)
	case string:
		if e.Service == "" {
			f.add(path, "", "only a service's port has a name; give its number")
		}
		return 0, v
	}
	if port < 1 || port > 65535 {
		f.add(path, "", "%v isn't a port from 1 to 65535", e.Port)
		return 0, ""
	}
	return port, ""
}

func (f *fleet) readTarget(c *check, d schema.Check, port int, portName string) {
	e := d.To
	path := c.path + ".to"
	set := ends(e, "pod", "service", "address", "name", "node")
	switch {
	case e.NetNS != "":
		f.add(path+".netns", "", "a namespace has no address that plumb knows; name a pod, a service, an address, a name or a node")
		return
	case len(set) == 0:
		f.add(path, "", "name a pod, a service, an address, a name or a node")
		return
	case len(set) > 1:
		f.add(path+"."+set[1], path+"."+set[0], "a check is about one thing: a pod, a service, an address, a name or a node")
		return
	}
	at := ""
	if port != 0 {
		at = " port " + strconv.Itoa(port)
	}
	switch set[0] {
	case "pod":
		c.To = "pod " + e.Pod + at
		if c.pod = f.pod(e.Pod); c.pod == nil {
			f.add(path+".pod", "", "no pod is named %q", e.Pod)
		}
	case "service":
		f.readService(c, d, port, portName)
	case "address":
		c.To = "address " + e.Address + at
		a, err := netip.ParseAddr(e.Address)
		switch {
		case err != nil || a.Zone() != "":
			f.add(path+".address", "", "%q isn't an IP address", e.Address)
		case a.Is4In6():
			f.add(path+".address", "", "%s is an IPv4 address in IPv6 form; write %s", e.Address, a.Unmap())
		}
		c.Targets = []netip.AddrPort{netip.AddrPortFrom(a, 0)}
	case "name":
		c.To, c.Host = "name "+e.Name+at, e.Name
		if _, err := netip.ParseAddr(e.Name); err == nil {
			f.add(path+".name", "", "%s is an address; write address: %q", e.Name, e.Name)
		} else if !domain.MatchString(e.Name) {
			f.add(path+".name", "", "%q isn't the name of a host", e.Name)
		}
	case "node":
		c.To = "node " + e.Node + at
		if c.to = f.node(e.Node); c.to == nil {
			f.add(path+".node", "", "no node is named %q; %s", e.Node, f.declaredNodes())
		} else if len(c.to.Addresses) == 0 {
			f.add(path+".node", c.to.path, "node %s has no addresses; add them, or name an address", e.Node)
		}
	}
}

var domain = regexp.MustCompile(`^[A-Za-z0-9_]([-A-Za-z0-9_.]{0,252})$`)

// readService finds the service that a check is about, and which of its ports.
func (f *fleet) readService(c *check, d schema.Check, number int, portName string) {
	path, name := c.path+".to", d.To.Service
	i := slices.IndexFunc(f.services, func(s *service) bool { return s.name == name })
	if i < 0 {
		f.add(path+".service", "", "no service is named %q", name)
		return
	}
	s := f.services[i]
	c.service = s
	var fit []servicePort
	for _, p := range s.ports {
		if number == 0 && portName == "" || p.name == portName || number != 0 && p.Port.Port == number {
			fit = append(fit, p)
		}
	}
	switch {
	case len(s.ports) == 0:
		return // said
	case len(fit) == 0:
		what := cmp.Or(portName, strconv.Itoa(number))
		f.add(path+".port", s.path+".ports", "service %s has no port %s", name, what)
		return
	case len(fit) > 1 && number == 0:
		f.add(path, s.path+".ports", "service %s has %d ports; name one: port: %q", name, len(fit), fit[0].name)
		return
	case len(fit) > 1: // one number, two protocols
		i := slices.IndexFunc(fit, func(p servicePort) bool { return p.Protocol == protocolOf(typeOf(d)) })
		if i < 0 {
			f.add(path+".port", s.path+".ports", "service %s has port %d twice, for TCP and UDP; name one: port: %q", name, number, fit[0].name)
			return
		}
		fit = fit[i:]
	}
	c.port = fit[0]
	c.To = "service " + name + " port " + c.port.name
}

// readWords checks what has a form of its own.
func (f *fleet) readWords(c *check, d schema.Check) {
	for _, w := range [...]struct{ path, text string }{{".http.body", d.HTTP.Body}, {".udp.match", d.UDP.Match}} {
		if _, err := regexp.Compile(w.text); err != nil {
			f.add(c.path+w.path, "", "%q isn't a regular expression: %v", w.text, err)
		}
	}
	if _, err := url.Parse("http://host" + d.HTTP.Path); err != nil {
		f.add(c.path+".http.path", "", "%q can't be asked for: %v", d.HTTP.Path, err)
	}
	if d.Within == "" {
		return
	}
	within, err := time.ParseDuration(d.Within)
	if err != nil || within < minWithin || within > maxWithin {
		f.add(c.path+".within", "", "%q isn't a time from %s to %s", d.Within, minWithin, maxWithin)
	}
	c.Within = within
}

// String is "pod client -> service web port http".
func (c Check) String() string { return fmt.Sprintf("%s -> %s", c.From, c.To) }
