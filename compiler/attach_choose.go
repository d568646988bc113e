package compiler

import "plumb.internal/plumb/reconciler/resource"

// chooser settles attachments: "auto" once for each uplink.
type chooser struct {
	situation
	// held is the attachment that explicit pods have on an uplink; auto must not choose another one there.
	held map[string]string
	done map[string]answer
}

type answer struct{ attach, reason string }

func newChooser(b *builder) *chooser {
	c := &chooser{situation: *b.situation(), held: map[string]string{}, done: map[string]answer{}}
	for _, p := range b.node.pods {
		if p.child() {
			c.held[p.Uplink] = p.Attach
		}
	}
	return c
}

// choose fills in the attachment of a pod whose field is "auto", and checks any other.
func (c *chooser) choose(p *pod, ps *problems) *resource.Choice {
	t, s := settingOf(podAttach), c.situation
	s.uplink = p.Uplink
	if p.Attach != "auto" {
		if why := t.refuse(p.Attach, &s); why != "" {
			ps.add(p.from(p.attachFrom, "attach"), "", "pod %s can't have attach %q: %s", p.name, p.Attach, why)
			p.bad = true
		}
		return nil
	}
	got, ok := c.done[p.Uplink]
	if !ok {
		s.held = c.held[p.Uplink]
		got.attach, got.reason = t.auto(&s)
		c.done[p.Uplink] = got
	}
	if got.attach == "" {
		ps.add(p.from(p.attachFrom, "attach"), "", "pod %s can't be attached: %s", p.name, got.reason)
		p.bad = true
		return nil
	}
	p.Attach = got.attach
	return &resource.Choice{Subject: p.path + ".attach", Wanted: "auto", Chosen: got.attach, Reason: got.reason}
}
