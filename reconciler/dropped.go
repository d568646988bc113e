package reconciler

import "plumb.internal/plumb/reconciler/resource"

// worth is how much an object is of what files name: nothing, if plumb only uses it for that; every frontend, if it carries
// services; else the object itself.
func worth(r resource.Resource) int {
	if m, ok := r.(resource.Means); ok && m.Means() {
		return 0
	}
	c, ok := r.(resource.Carrier)
	if !ok {
		return 1
	}
	n := 0
	for range c.Carries() {
		n++
	}
	return n
}

// dropped is how much goes with a change that the files no longer name. Services that are carried another way are named.
func (d *differ) dropped(c *resource.Change) int {
	if c.Action == resource.Create {
		return 0
	}
	n := worth(c.Before)
	if from, ok := c.Before.(resource.Carrier); ok && n > 0 && (c.Action == resource.Delete || n > 1) {
		n = 0
		for key := range from.Carries() {
			if !d.carried()[key] {
				n++
			}
		}
		return n
	}
	if c.Action != resource.Delete || d.replacedWith(c) != nil {
		return 0
	}
	return n
}

// gone reports whether the files name nothing any more of what a deleted object was for.
func gone(c *resource.Change) bool { return c.Dropped > 0 && c.Dropped == worth(c.Before) }

// carried are the frontends of all services that are desired.
func (d *differ) carried() map[resource.FrontendKey]bool {
	if d.frontends == nil {
		d.frontends = map[resource.FrontendKey]bool{}
		for _, r := range d.desired {
			if c, ok := r.(resource.Carrier); ok {
				for key := range c.Carries() {
					d.frontends[key] = true
				}
			}
		}
	}
	return d.frontends
}

// explain says why an object goes that isn't what the files no longer name, and what ends with it or with its change.
func explain(c *resource.Change) {
	if gone(c) {
		return
	}
	if c.Action == resource.Delete && c.Reason == unnamed {
		c.Reason = "no longer needed"
		if worth(c.Before) > 0 {
			c.Reason = "services are carried another way"
		}
	}
	if _, ok := c.Before.(resource.Carrier); ok && c.Disruption.Level() >= resource.DisruptsPod.Level() {
		c.Reason += ", and established connections end"
	}
}
