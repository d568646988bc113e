package host

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Modes of XDP, as the kernel's messages have them.
const (
	XDPNative  = 1 // in the driver
	XDPGeneric = 2 // in the stack, for any driver
	XDPOffload = 3 // in the device
)

// XDP is one program on the earliest hook of a device.
type XDP struct {
	Mode    uint8
	Program uint32 // the kernel's number
}

// Attributes of linux/if_link.h that the library lacks.
const (
	xdpNativeProgram = 5 + iota
	xdpGenericProgram
	xdpOffloadProgram
)

// readXDP reads what a link message tells of XDP. Old kernels tell the mode apart from the program.
func readXDP(data []byte) (all []XDP) {
	var mode uint8
	var program uint32
	for a := range attrs(data) {
		switch a.kind {
		case nl.IFLA_XDP_ATTACHED:
			mode = a.u8()
		case nl.IFLA_XDP_PROG_ID:
			program = a.u32()
		case xdpNativeProgram, xdpGenericProgram, xdpOffloadProgram:
			if id := a.u32(); id != 0 {
				all = append(all, XDP{Mode: uint8(a.kind-xdpNativeProgram) + XDPNative, Program: id})
			}
		}
	}
	if len(all) == 0 && program != 0 {
		all = []XDP{{Mode: mode, Program: program}}
	}
	slices.SortFunc(all, func(x, y XDP) int { return int(x.Mode) - int(y.Mode) })
	return all
}

// Flags of IFLA_XDP_FLAGS.
const (
	xdpUnlessThere = 1 << 0
	xdpSKBMode     = 1 << 1
	xdpDriverMode  = 1 << 2
)

// SetXDP puts a program on the earliest hook of a device, as kernels without links for that do; a negative descriptor takes it
// away. A program that is there in the same mode is replaced, unless that isn't expected. The caller announces the write.
func (ns *NS) SetXDP(index int, mode uint8, fd int, replace bool) error {
	flags := uint32(xdpDriverMode)
	if mode == XDPGeneric {
		flags = xdpSKBMode
	}
	if fd >= 0 && !replace {
		flags |= xdpUnlessThere
	}
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	attr := nl.NewRtAttr(unix.IFLA_XDP|unix.NLA_F_NESTED, nil)
	attr.AddRtAttr(nl.IFLA_XDP_FD, nl.Uint32Attr(uint32(int32(fd))))
	attr.AddRtAttr(nl.IFLA_XDP_FLAGS, nl.Uint32Attr(flags))
	req.AddData(attr)
	if err := ns.Request(req); err != nil {
		return fmt.Errorf("set the XDP program of the device: %w", err)
	}
	return nil
}
