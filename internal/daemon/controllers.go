package daemon

import (
	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/health"
)

// controllers are what the daemon does again and again, apart from probes, of which the prober keeps count.
type controllers struct{ files, cycles, looks api.Controller }

func newControllers() controllers {
	return controllers{api.Controller{Name: "read files"}, api.Controller{Name: "reconcile"}, api.Controller{Name: "look at everything"}}
}

// all lists them.
func (c *controllers) all(p *health.Prober) []api.Controller {
	all := []api.Controller{c.files, c.cycles, c.looks}
	if p != nil {
		all = append(all, p.Controller())
	}
	return all
}

// note counts one time that something was done.
func (d *Daemon) note(c *api.Controller, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.Note(err)
}
