package bpf

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// objects are the four, by the functions that read them.
var objects = map[string]func() (*ebpf.CollectionSpec, error){
	"socket": loadSocket, "socket_all": loadSocket_all, "packet": loadPacket, "forward": loadForward, "sweep": loadSweep, "xdp": loadXdp,
}

// layouts are key and value of every map, in Go; Maglev tables are compared by their classes.
var layouts = map[string][2]any{
	"frontends":    {FrontendKey{}, Frontend{}},
	"slots":        {SlotKey{}, Backend{}},
	"members":      {MemberKey{}, uint32(0)},
	"affinities":   {AffinityKey{}, Affinity{}},
	"namespaces":   {uint64(0), uint32(0)},
	"endpoints":    {Address{}, Endpoint{}},
	"paces":        {Address{}, Pace{}},
	"macs":         {uint64(0), uint32(0)},
	"uplinks":      {uint32(0), uint32(0)},
	"sock_reverse": {PeerKey{}, Peer{}},
	"sock_forward": {PeerKey{}, Peer{}},
	"flows":        {FlowKey{}, Flow{}},
	"asked":        {FlowKey{}, uint32(0)},
	"excluded":     {Prefix{}, uint32(0)},
	"counters":     {uint32(0), Counted{}},
}

// inside are maps whose entries programs alone read and write.
var inside = map[string]bool{"fragments": true, "marked": true, "swept": true}

func TestLayout(t *testing.T) {
	for name, load := range objects {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		compared := 0
		for base, m := range spec.Maps {
			if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "maglev_") || inside[base] {
				continue
			}
			want, ok := layouts[base]
			if !ok {
				t.Errorf("%s: map %s has no layout in Go", name, base)
				continue
			}
			compared++
			for _, err := range compare(base+" key", reflect.TypeOf(want[0]), m.Key) {
				t.Errorf("%s: %v", name, err)
			}
			for _, err := range compare(base+" value", reflect.TypeOf(want[1]), m.Value) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if compared != len(layouts) {
			t.Errorf("%s has %d of %d maps", name, compared, len(layouts))
		}
		if n := int(spec.Maps["counters"].MaxEntries); n != len(Counters) {
			t.Errorf("%s: %d counters, %d names", name, n, len(Counters))
		}
	}
}

func TestMaglevClasses(t *testing.T) {
	for name, load := range objects {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for base := range spec.Maps {
			if strings.HasPrefix(base, "maglev_") {
				found++
			}
		}
		if found != len(MaglevClasses) {
			t.Errorf("%s has %d Maglev maps for %d classes", name, found, len(MaglevClasses))
		}
		for class, size := range MaglevClasses {
			m := spec.Maps[fmt.Sprintf("maglev_%ds", size)]
			if m == nil {
				t.Errorf("%s: no map for class %d", name, class)
				continue
			}
			// Two words, then the slots, in whole eight bytes: what the map's array has for an element anyway.
			if want := uint32(16 + (size*2+7)/8*8); m.ValueSize != want {
				t.Errorf("%s: an element of %s has %d bytes, not %d", name, m.Name, m.ValueSize, want)
			}
			value, ok := btf.UnderlyingType(m.Value).(*btf.Struct)
			if !ok || len(value.Members) != 3 || value.Members[2].Offset.Bytes() != 16 {
				t.Errorf("%s: an element of %s isn't inputs, sum, slots", name, m.Name)
			}
		}
	}
}

// compare says where a Go type differs from the C type whose bytes it stands for. Fields are called the same; padding has
// no name in Go.
func compare(at string, g reflect.Type, c btf.Type) (errs []error) {
	size, err := btf.Sizeof(c)
	if err != nil {
		return []error{fmt.Errorf("%s: %w", at, err)}
	}
	if size != int(g.Size()) {
		return []error{fmt.Errorf("%s: %d bytes in C, %d in Go", at, size, g.Size())}
	}
	s, ok := btf.UnderlyingType(c).(*btf.Struct)
	if g.Kind() != reflect.Struct || !ok {
		if (g.Kind() == reflect.Struct) != ok && g != reflect.TypeOf(Address{}) {
			errs = append(errs, fmt.Errorf("%s: %v in C, %v in Go", at, c, g))
		}
		return errs
	}
	if len(s.Members) != g.NumField() {
		return []error{fmt.Errorf("%s: %d fields in C, %d in Go", at, len(s.Members), g.NumField())}
	}
	for i, m := range s.Members {
		f := g.Field(i)
		if f.Name == "_" {
			f.Name = "pad"
		}
		field := at + "." + m.Name
		if !strings.EqualFold(strings.ReplaceAll(m.Name, "_", ""), f.Name) {
			errs = append(errs, fmt.Errorf("%s: %s in Go", field, f.Name))
		}
		if int(m.Offset.Bytes()) != int(f.Offset) {
			errs = append(errs, fmt.Errorf("%s: at byte %d in C, %d in Go", field, m.Offset.Bytes(), f.Offset))
		}
		errs = append(errs, compare(field, f.Type, m.Type)...)
	}
	return errs
}

// TestCompare: what the layouts are compared by finds differences.
func TestCompare(t *testing.T) {
	spec, err := loadSocket()
	if err != nil {
		t.Fatal(err)
	}
	key := spec.Maps["frontends"].Key
	for _, wrong := range []any{
		struct { // another size
			Addr Address
			Port Port
		}{},
		struct { // another order
			Port  Port
			Addr  Address
			Proto uint8
			_     uint8
		}{},
		struct { // another name
			Addr   Address
			Port   Port
			Number uint8
			_      uint8
		}{},
		struct { // another type
			Addr  Address
			Port  Port
			Proto struct{ P uint8 }
			_     uint8
		}{},
	} {
		if len(compare("key", reflect.TypeOf(wrong), key)) == 0 {
			t.Errorf("%T passes for the key of frontends", wrong)
		}
	}
}

// Constants in C are gone when the objects are made, so these come from the source.
func TestConstants(t *testing.T) {
	source, err := os.ReadFile("maps.h")
	if err != nil {
		t.Fatal(err)
	}
	inC := enums(string(source))
	for enum, inGo := range map[string]map[string]int{
		"algorithm":     {"RANDOM": Random, "ROUND_ROBIN": RoundRobin, "MAGLEV": Maglev},
		"backend_state": {"ACTIVE": Active, "TERMINATING": Terminating, "MAINTENANCE": Maintenance, "DOWN": Down},
		"attachment": {"VETH": Veth, "NETKIT": Netkit, "BRIDGE": Bridge, "MACVLAN": Macvlan, "IPVLAN_L2": IPvlanL2,
			"IPVLAN_L3": IPvlanL3},
		"flow_kind": {"FORWARD": FlowForward, "REVERSE": FlowReverse, "HAIRPIN_FORWARD": FlowHairpinForward,
			"HAIRPIN_REVERSE": FlowHairpinReverse, "MASQUERADE": FlowMasquerade, "UNMASQUERADE": FlowUnmasquerade},
		"counter": counterNames(),
	} {
		if !reflect.DeepEqual(inC[enum], inGo) {
			t.Errorf("enum %s: %v in C, %v in Go", enum, inC[enum], inGo)
		}
	}
}

func counterNames() map[string]int {
	names := map[string]int{"COUNTERS": len(Counters)}
	for i, n := range Counters {
		names["COUNT_"+strings.ToUpper(strings.ReplaceAll(n, "-", "_"))] = i
	}
	return names
}

var (
	comment   = regexp.MustCompile(`//[^\n]*`)
	enumBlock = regexp.MustCompile(`enum (\w+) \{([^}]*)\}`)
)

// enums are the named enumerations of a C source.
func enums(source string) map[string]map[string]int {
	all := map[string]map[string]int{}
	for _, block := range enumBlock.FindAllStringSubmatch(comment.ReplaceAllString(source, ""), -1) {
		values, next := map[string]int{}, 0
		for word := range strings.SplitSeq(block[2], ",") {
			name, value, given := strings.Cut(strings.TrimSpace(word), "=")
			if name = strings.TrimSpace(name); name == "" {
				continue
			}
			if given {
				next, _ = strconv.Atoi(strings.TrimSpace(value))
			}
			values[name] = next
			next++
		}
		all[block[1]] = values
	}
	return all
}
