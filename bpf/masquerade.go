package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// MasqueradeSettings are the settings that say which addresses of the node's pods are given; a zero one is none.
func MasqueradeSettings(v4, v6 netip.Addr) map[string]uint32 {
	settings := map[string]uint32{}
	if v4.IsValid() {
		settings["masquerade4"] = binary.LittleEndian.Uint32(v4.AsSlice())
	}
	if v6.IsValid() {
		for i, b := 0, v6.AsSlice(); i < 4; i++ {
			settings[fmt.Sprintf("masquerade6_%d", i)] = binary.LittleEndian.Uint32(b[4*i:])
		}
	}
	return settings
}

// Ports of the node's that the programs of uplinks give to connections of pods.
const (
	FirstMasqueradePort = 1024
	LastMasqueradePort  = 32767
)
