package features

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

var classifierProbes = []probe{
	{Clsact, "4.5", "attaching a program to clsact", tryClsact},
	{TCX, "6.6", "attaching a program by tcx", tryTCX},
	{NetkitAttach, "6.7", "attaching a program to a netkit pair", tryNetkit},
}

var xdpProbes = []probe{
	{XDPGeneric, "4.12", "attaching generic XDP to a veth", func(s *sandbox) error { return s.xdp(nl.XDP_FLAGS_SKB_MODE) }},
	{XDPNativeVeth, "4.19", "attaching native XDP to a veth", func(s *sandbox) error { return s.xdp(nl.XDP_FLAGS_DRV_MODE) }},
	{LinkXDP, "5.9", "attaching XDP to a veth as a link", tryXDPLink},
}

var hookProbes = []probe{
	{LinkCgroup, "5.7", "creating a link to a cgroup", tryCgroupLink},
	hook(CgroupConnect4, "4.17", ebpf.AttachCGroupInet4Connect),
	hook(CgroupConnect6, "4.17", ebpf.AttachCGroupInet6Connect),
	hook(CgroupSendmsg4, "4.18", ebpf.AttachCGroupUDP4Sendmsg),
	hook(CgroupSendmsg6, "4.18", ebpf.AttachCGroupUDP6Sendmsg),
	hook(CgroupRecvmsg4, "5.2", ebpf.AttachCGroupUDP4Recvmsg),
	hook(CgroupRecvmsg6, "5.2", ebpf.AttachCGroupUDP6Recvmsg),
	hook(CgroupGetpeername4, "5.8", ebpf.AttachCgroupInet4GetPeername),
	hook(CgroupGetpeername6, "5.8", ebpf.AttachCgroupInet6GetPeername),
	{CgroupSockRelease, "5.9", "loading a socket program for hook sock_release", func(*sandbox) error {
		return withProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSock, AttachType: ebpf.AttachCgroupInetSockRelease, Instructions: pass(1)}, nil)
	}},
}

// hook loads a socket program for one hook, which the kernel checks when loading: no cgroup is touched.
func hook(f Feature, since string, at ebpf.AttachType) probe {
	return probe{f, since, fmt.Sprintf("loading a socket program for hook %s", strings.TrimPrefix(string(f), "bpf.cgroup.")), func(*sandbox) error {
		return withProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSockAddr, AttachType: at, Instructions: pass(1)}, nil)
	}}
}

// withClassifier hands a tc program that lets everything pass, and a link to attach it to, to use.
func (s *sandbox) withClassifier(use func(*ebpf.Program, netlink.Link) error) error {
	l, err := s.parent()
	if err != nil {
		return err
	}
	loaded := false
	err = withProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: pass(0)}, func(p *ebpf.Program) error {
		loaded = true
		return use(p, l)
	})
	if err != nil && !loaded {
		return fmt.Errorf("load a tc program: %w", err)
	}
	return err
}

func tryClsact(s *sandbox) error {
	return s.withClassifier(func(p *ebpf.Program, l netlink.Link) error {
		if err := s.clsact(l); err != nil {
			return fmt.Errorf("add clsact: %w", err)
		}
		return s.h.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL,
			},
			Fd: p.FD(), Name: "trial", DirectAction: true,
		})
	})
}

func tryTCX(s *sandbox) error {
	return s.withClassifier(func(p *ebpf.Program, l netlink.Link) error {
		k, err := link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: p, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return err
		}
		return k.Close()
	})
}

func tryNetkit(s *sandbox) error {
	if err := s.netkit(); err != nil {
		return fmt.Errorf("create a netkit pair: %w", err)
	}
	nk, err := s.h.LinkByName("nk")
	if err != nil {
		return untried("find the netkit pair", err)
	}
	return withProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: pass(-1)}, func(p *ebpf.Program) error {
		k, err := link.AttachNetkit(link.NetkitOptions{Interface: nk.Attrs().Index, Program: p, Attach: ebpf.AttachNetkitPrimary})
		if err != nil {
			return err
		}
		return k.Close()
	})
}

const xdpPass = 2 // XDP_PASS of linux/bpf.h

// xdp attaches by netlink, as kernels without XDP links do. The program goes with the device.
func (s *sandbox) xdp(mode uint32) error {
	l, err := s.parent()
	if err != nil {
		return err
	}
	return withProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: pass(xdpPass)}, func(p *ebpf.Program) error {
		req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(l.Attrs().Index)
		req.AddData(msg)
		attr := nl.NewRtAttr(unix.IFLA_XDP|unix.NLA_F_NESTED, nil)
		attr.AddRtAttr(nl.IFLA_XDP_FD, nl.Uint32Attr(uint32(p.FD())))
		attr.AddRtAttr(nl.IFLA_XDP_FLAGS, nl.Uint32Attr(mode))
		req.AddData(attr)
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

func tryXDPLink(s *sandbox) error {
	l, err := s.parent()
	if err != nil {
		return err
	}
	return withProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: pass(xdpPass)}, func(p *ebpf.Program) error {
		k, err := link.AttachXDP(link.XDPOptions{Interface: l.Attrs().Index, Program: p, Flags: link.XDPGenericMode})
		if err != nil {
			return err
		}
		return k.Close()
	})
}

// tryCgroupLink offers a file that isn't a cgroup. A kernel that has such links gets as far as refusing the file, one
// that hasn't refuses the call.
func tryCgroupLink(*sandbox) error {
	f, err := os.Open("/proc/self")
	if err != nil {
		return untried("open a file", err)
	}
	defer f.Close()
	spec := &ebpf.ProgramSpec{Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, Instructions: pass(1)}
	return withProgram(spec, func(p *ebpf.Program) error {
		k, err := link.AttachRawLink(link.RawLinkOptions{Target: int(f.Fd()), Program: p, Attach: ebpf.AttachCGroupInet4Connect})
		if errors.Is(err, unix.EBADF) {
			return nil
		}
		if err != nil {
			return err
		}
		return errors.Join(untried("offer a wrong file", errors.New("it was taken")), k.Close())
	})
}

func tryCgroup2(*sandbox) error {
	dir, err := privateMounts()
	if err != nil {
		return err
	}
	return unix.Mount("cgroup2", dir, "cgroup2", 0, "")
}
