package compiler

import "plumb.internal/plumb/schema"

// typeOf is the type that a check asks for, "" if it leaves it open.
func typeOf(d schema.Check) string {
	switch {
	case d.Type != "":
		return d.Type
	case d.HTTP != schema.CheckHTTP{}:
		return typeHTTP
	case d.UDP != schema.CheckUDP{}:
		return typeUDP
	}
	return ""
}

// protocolOf is what a type of check speaks.
func protocolOf(kind string) string {
	return map[string]string{typeTCP: "TCP", typeHTTP: "TCP", typeUDP: "UDP"}[kind]
}

// readType decides what kind of probe the check is.
func (f *fleet) readType(c *check, d schema.Check, port int) {
	http, udp := d.HTTP != schema.CheckHTTP{}, d.UDP != schema.CheckUDP{}
	switch said := typeOf(d); {
	case said != "":
		c.Type = said
	case c.service != nil && c.port.Protocol == "UDP":
		c.Type = typeUDP
	case c.service != nil, port != 0:
		c.Type = typeTCP
	default:
		c.Type = typeICMP
	}
	kind := c.path
	if d.Type != "" {
		kind += ".type"
	}
	switch {
	case http && c.Type != typeHTTP:
		f.add(c.path+".http", kind, "http is for checks of type http; this one is %s", c.Type)
	case udp && c.Type != typeUDP:
		f.add(c.path+".udp", kind, "udp is for checks of type udp; this one is %s", c.Type)
	case c.service != nil:
		if c.Type == typeICMP {
			f.add(kind, c.path+".to", "a service answers no echo; take type tcp, udp or http")
		} else if protocolOf(c.Type) != c.port.Protocol {
			f.add(kind, c.service.portPath(c.port), "a check of type %s can't ask port %s of service %s, which is %s",
				c.Type, c.port.name, c.service.name, c.port.Protocol)
		}
		return
	case c.Type == typeICMP && port != 0:
		f.add(c.path+".to.port", kind, "an echo has no port; leave it out")
	case port == 0 && c.Type == typeHTTP:
		port = 80
	case port == 0 && c.Type != typeICMP:
		f.add(c.path+".to", kind, "port is missing: a check of type %s asks one", c.Type)
	}
	c.Port = uint16(port)
}
