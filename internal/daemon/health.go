package daemon

import (
	"net/netip"
	"slices"

	"plumb.internal/plumb/internal/health"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/nft"
	"plumb.internal/plumb/reconciler/resource/service"
)

// consult takes the probes' word, for one cycle. What it changes is told here, and is no drift.
func (d *Daemon) consult() {
	v := d.prober.Verdicts()
	frontends := map[netip.AddrPort][]string{}
	var order []netip.AddrPort
	reasons := map[netip.AddrPort]health.Verdict{}
	for _, k := range health.Flips(d.told, v) {
		if frontends[k.Backend] == nil {
			order = append(order, k.Backend)
		}
		frontends[k.Backend] = append(frontends[k.Backend], k.Frontend)
		reasons[k.Backend] = v[k]
		d.expected[resource.ID{Kind: service.Kind, Name: k.Frontend}] = true
		d.expected[nft.Table{}.ID()] = true
	}
	for _, b := range order {
		if r := reasons[b]; r.Down {
			d.Log.Warn("backend down", "backend", b.String(), "frontends", frontends[b], "reason", r.Reason)
		} else {
			d.Log.Info("backend answers again", "backend", b.String(), "frontends", frontends[b])
		}
	}
	d.verdicts, d.told = v, v
	var unanswered []string
	if d.inForce != nil {
		unanswered = health.Unanswered(d.inForce.compiled.State, v)
	}
	for _, f := range unanswered {
		if !slices.Contains(d.unanswered, f) {
			d.Log.Warn("no backend answers its probes: all are used", "frontend", f)
		}
	}
	d.unanswered = unanswered
}
