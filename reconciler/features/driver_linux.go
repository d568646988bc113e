package features

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/ethtool"
)

// askDriver asks what a device's own settings can be. What a driver doesn't answer it hasn't got.
func (d *Device) askDriver(name string) {
	rings := make([]uint32, ethtool.RingWords)
	rings[0] = ethtool.GetRings
	if ethtool.Do(name, rings) == nil {
		d.RXRing, d.TXRing = int(rings[ethtool.RxRingMost]), int(rings[ethtool.TxRingMost])
	}
	coalesce := make([]uint32, ethtool.CoalesceWords)
	coalesce[0] = ethtool.GetCoalesce
	d.Coalesce = ethtool.Do(name, coalesce) == nil
}

// largestMTUs are those that the drivers take, by the indexes of the devices, as far as the kernel tells (since 4.19). The
// netlink package leaves them out.
func largestMTUs() (map[int]int, error) {
	for range 5 {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
		if errors.Is(err, unix.EINTR) || errors.Is(err, nl.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list links: %w", err)
		}
		most := map[int]int{}
		for _, m := range msgs {
			attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfInfomsg:])
			if err != nil {
				return nil, fmt.Errorf("read attributes of a link: %w", err)
			}
			for _, a := range attrs {
				if a.Attr.Type == unix.IFLA_MAX_MTU && len(a.Value) == 4 {
					most[int(nl.DeserializeIfInfomsg(m).Index)] = int(binary.NativeEndian.Uint32(a.Value))
				}
			}
		}
		return most, nil
	}
	return nil, fmt.Errorf("list links: %w", nl.ErrDumpInterrupted)
}

// othersQdiscs are the root queueing disciplines that somebody configured, by the indexes of their devices. Handle 0 is the
// kernel's own choice.
func othersQdiscs() (map[int]string, error) {
	for range 5 {
		req := nl.NewNetlinkRequest(unix.RTM_GETQDISC, unix.NLM_F_DUMP)
		req.AddData(&nl.TcMsg{Family: unix.AF_UNSPEC})
		msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWQDISC)
		if errors.Is(err, unix.EINTR) || errors.Is(err, nl.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list queueing disciplines: %w", err)
		}
		found := map[int]string{}
		for _, m := range msgs {
			attrs, err := nl.ParseRouteAttr(m[nl.SizeofTcMsg:])
			if err != nil {
				return nil, fmt.Errorf("read attributes of a queueing discipline: %w", err)
			}
			q := nl.DeserializeTcMsg(m)
			if q.Parent != netlink.HANDLE_ROOT || q.Handle == 0 || q.Handle>>16 == ownGroup {
				continue
			}
			for _, a := range attrs {
				if a.Attr.Type == nl.TCA_KIND {
					found[int(q.Ifindex)] = fmt.Sprintf("%s %x:", unix.ByteSliceToString(a.Value), q.Handle>>16)
				}
			}
		}
		return found, nil
	}
	return nil, fmt.Errorf("list queueing disciplines: %w", nl.ErrDumpInterrupted)
}
