package host

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Qdisc is one queueing discipline of a device.
type Qdisc struct {
	LinkIndex      int
	Handle, Parent uint32
	Kind           string // "fq", "mq", ...
	// Rate is that of a tbf, in bytes per second; else 0.
	Rate uint64
	// Packets is how many an fq holds, and FlowPackets how many of one flow; else 0.
	Packets, FlowPackets uint32
}

// Root reports whether the device sends by it.
func (q Qdisc) Root() bool { return q.Parent == netlink.HANDLE_ROOT }

// Numbers of linux/pkt_sched.h.
const (
	tbfParms          = 1 // TCA_TBF_PARMS
	tbfRate64         = 4 // TCA_TBF_RATE64
	fqPacketLimit     = 1 // TCA_FQ_PLIMIT
	fqFlowPacketLimit = 2 // TCA_FQ_FLOW_PLIMIT
)

func (c *conn) qdiscs() (qdiscs []Qdisc, err error) {
	req := dumpRequest(unix.RTM_GETQDISC, &nl.TcMsg{Family: unix.AF_UNSPEC})
	err = c.dump(req, func() { qdiscs = nil }, func(m []byte) error {
		if len(m) < nl.SizeofTcMsg {
			return fmt.Errorf("a qdisc message of %d bytes", len(m))
		}
		msg := nl.DeserializeTcMsg(m)
		q := Qdisc{LinkIndex: int(msg.Ifindex), Handle: msg.Handle, Parent: msg.Parent}
		var options []byte
		for a := range attrs(m[nl.SizeofTcMsg:]) {
			switch a.kind {
			case nl.TCA_KIND:
				q.Kind = a.text()
			case nl.TCA_OPTIONS:
				options = a.value
			}
		}
		switch q.Kind {
		case "tbf":
			q.Rate = tbfRate(options)
		case "fq":
			q.Packets, q.FlowPackets = fqLimits(options)
		}
		qdiscs = append(qdiscs, q)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the qdiscs: %w", err)
	}
	return qdiscs, nil
}

// tbfRate is a rate in bytes per second, from the 32-bit field or, where that is too small, the 64-bit one.
func tbfRate(options []byte) (rate uint64) {
	for a := range attrs(options) {
		switch {
		case a.kind == tbfParms && len(a.value) >= 12 && rate == 0:
			rate = uint64(nl.NativeEndian().Uint32(a.value[8:]))
		case a.kind == tbfRate64 && len(a.value) >= 8:
			rate = nl.NativeEndian().Uint64(a.value)
		}
	}
	return rate
}

func fqLimits(options []byte) (packets, flowPackets uint32) {
	for a := range attrs(options) {
		switch {
		case a.kind == fqPacketLimit && len(a.value) >= 4:
			packets = nl.NativeEndian().Uint32(a.value)
		case a.kind == fqFlowPacketLimit && len(a.value) >= 4:
			flowPackets = nl.NativeEndian().Uint32(a.value)
		}
	}
	return packets, flowPackets
}
