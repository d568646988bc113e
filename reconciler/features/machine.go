package features

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// machine writes for people what belongs to the whole machine.
func (h *HostFacts) machine(w io.Writer) {
	if h.Guest {
		fmt.Fprintln(w, "the network namespace isn't the machine's own: interrupts and frequencies are somebody else's to set")
	}
	if h.OnlineCPUs != "" {
		fmt.Fprintf(w, "processors %s\n", h.OnlineCPUs)
	}
	if h.IsolatedCPUs != "" {
		fmt.Fprintf(w, "processors %s are kept apart\n", h.IsolatedCPUs)
	}
	switch {
	case h.Governors == nil:
	case len(h.Governors) == 0:
		fmt.Fprintln(w, "processor frequencies can't be set")
	default:
		fmt.Fprintf(w, "processor governors %s\n", strings.Join(h.CommonGovernors(), ", "))
	}
	for _, name := range h.Firewall {
		fmt.Fprintf(w, "forwarded packets pass %s of others\n", name)
	}
	for _, name := range sortedKeys(h.Devices) {
		h.Devices[name].limits(w, name)
	}
	for _, name := range sortedKeys(h.Devices) {
		d := h.Devices[name]
		if d.RXQueues+d.TXQueues == 0 {
			continue
		}
		fmt.Fprintf(w, "%s has %d receive and %d transmit queues", name, d.RXQueues, d.TXQueues)
		if len(d.IRQs) > 0 {
			fmt.Fprintf(w, ", interrupts %s", strings.Trim(fmt.Sprint(d.IRQs), "[]"))
		}
		if d.LocalCPUs != "" {
			fmt.Fprintf(w, ", near to processors %s", d.LocalCPUs)
		}
		fmt.Fprintln(w)
	}
}

// limits writes what the driver of a device takes.
func (d Device) limits(w io.Writer, name string) {
	var parts []string
	if d.MaxMTU > 0 {
		parts = append(parts, fmt.Sprintf("an MTU of up to %d", d.MaxMTU))
	}
	if d.RXRing+d.TXRing > 0 {
		parts = append(parts, fmt.Sprintf("rings of up to %d and %d packets", d.RXRing, d.TXRing))
	}
	if d.Coalesce {
		parts = append(parts, "how long interrupts wait")
	}
	if len(parts) > 0 {
		fmt.Fprintf(w, "%s takes %s\n", name, strings.Join(parts, ", "))
	}
}

// CommonGovernors are those that all processors can have, in order.
func (h *HostFacts) CommonGovernors() []string {
	var common []string
	for i, policy := range sortedKeys(h.Governors) {
		if i == 0 {
			common = slices.Sorted(slices.Values(h.Governors[policy]))
		}
		common = slices.DeleteFunc(common, func(g string) bool { return !slices.Contains(h.Governors[policy], g) })
	}
	return common
}
