package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// dumpSize is what is read at a time. The kernel begins each part of a dump at the front of the set again, and makes
// parts as large as the reader has asked for, up to 32 KiB: with the library's pages of 4 KiB it takes 8 times as long.
const dumpSize = 64 << 10

// interruptions is how often a dump that a change interrupted is begun again.
const interruptions = 20

// dump reads all elements of a set in the calling thread's namespace.
func dump(set string) (map[string]element, error) {
	fd, err := socket()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, dumpSize)
	for range interruptions {
		elements := map[string]element{}
		again, err := ask(fd, unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, set, buf, func(msg []byte) {
			for kind, list := range attributes(msg) {
				if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
					continue
				}
				for _, e := range attributes(list) {
					key, value := parse(e)
					elements[key] = value
				}
			}
		})
		if err != nil {
			return nil, fmt.Errorf("read set %s: %w", set, err)
		}
		if !again {
			return elements, nil
		}
	}
	return nil, fmt.Errorf("read set %s: %w", set, unix.EINTR)
}

// setComment reads the comment of a set. The error wraps fs.ErrNotExist where there is no such set.
func setComment(set string) (comment string, err error) {
	fd, err := socket()
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	_, err = ask(fd, unix.NFT_MSG_GETSET, unix.NLM_F_ACK, set, make([]byte, dumpSize), func(msg []byte) {
		for kind, v := range attributes(msg) {
			if kind == unix.NFTA_SET_USERDATA {
				comment, _ = userdata.GetString(v, userdata.NFTNL_UDATA_SET_COMMENT)
			}
		}
	})
	if err != nil {
		return "", fmt.Errorf("read set %s: %w", set, err)
	}
	return comment, nil
}

func socket() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, fmt.Errorf("open a netlink socket: %w", err)
	}
	return fd, nil
}

// ask sends a request about a set and calls f with the attributes of each message of the answer. It reports whether the
// set changed meanwhile.
func ask(fd, what, flags int, set string, buf []byte, f func(msg []byte)) (again bool, err error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|what, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.NFPROTO_INET, Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(unix.NFTA_SET_TABLE, nl.ZeroTerminated(table.Name)))
	req.AddData(nl.NewRtAttr(unix.NFTA_SET_NAME, nl.ZeroTerminated(set))) // the same numbers in requests about elements
	if err := unix.Sendto(fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, err
	}
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, err
		}
		for b := buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				return false, errTorn
			}
			kind, flags, msg := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]), b[unix.NLMSG_HDRLEN:size]
			again = again || flags&unix.NLM_F_DUMP_INTR != 0
			b = b[min((size+3)&^3, len(b)):]
			switch {
			case len(msg) < 4: // an error's code, or the header of netfilter's messages
				return false, errTorn
			case kind == unix.NLMSG_DONE || kind == unix.NLMSG_ERROR:
				if code := int32(binary.NativeEndian.Uint32(msg)); code < 0 {
					return false, unix.Errno(-code)
				}
				return again, nil
			}
			f(msg[nl.SizeofNfgenmsg:])
		}
	}
}

var errTorn = errors.New("the kernel sent a torn message")

// parse reads one element. A verdict's value is the chain's name; the key of a range's end bears a mark.
func parse(b []byte) (key string, e element) {
	end := false
	for kind, v := range attributes(b) {
		switch kind {
		case unix.NFTA_SET_ELEM_FLAGS:
			end = len(v) == 4 && binary.BigEndian.Uint32(v)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_KEY:
			for _, data := range attributes(v) {
				key = string(data)
			}
		case unix.NFTA_SET_ELEM_DATA:
			for kind, data := range attributes(v) {
				if kind == unix.NFTA_DATA_VALUE {
					e.value = string(data)
					continue
				}
				for kind, name := range attributes(data) {
					if kind == unix.NFTA_VERDICT_CHAIN && len(name) > 0 {
						e.value = string(name[:len(name)-1])
					}
				}
			}
		case unix.NFTA_SET_ELEM_USERDATA:
			e.comment, _ = userdata.GetString(v, userdata.NFTNL_UDATA_SET_ELEM_COMMENT)
		}
	}
	if end {
		key += past
	}
	return key, e
}

// attributes walks a list of netlink attributes, which lie in the buffer that was read.
func attributes(b []byte) func(yield func(kind uint16, value []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofNlAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofNlAttr || size > len(b) ||
				!yield(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofNlAttr:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}
