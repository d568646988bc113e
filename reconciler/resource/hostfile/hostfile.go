// Package hostfile is the kind of the machine's settings that are one line of a file in /sys or /proc outside of
// /proc/sys: which frequency the processors run at, which of them serve a device. No mark is possible on them: the value
// from before the first change is recorded in the run folder and comes back on delete.
package hostfile

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "hostfile"

// File is one setting.
type File struct {
	// Path is one that Governor, Affinity, RPS, XPS or FlowCount return.
	Path string
	// Value is a word or a number; a set of processors is a list ("0-3,6") whatever form the file has.
	Value string
	From  string

	// gone says of an observed one that there is only a record left of it.
	gone bool
}

// Governor is the file that says how a group of processors finds its frequency. policy is "policy0".
func Governor(policy string) string {
	return path.Join("/sys/devices/system/cpu/cpufreq", policy, "scaling_governor")
}

// Affinity is the file that says which processors may be interrupted by an interrupt.
func Affinity(irq int) string { return fmt.Sprintf("/proc/irq/%d/smp_affinity_list", irq) }

// RPS is the file that says which processors go on with what a receive queue of a device took in.
func RPS(dev string, queue int) string {
	return path.Join(devices, dev, "queues", "rx-"+strconv.Itoa(queue), "rps_cpus")
}

// FlowCount is the file that says how many flows of a receive queue are remembered, a power of two.
func FlowCount(dev string, queue int) string {
	return path.Join(devices, dev, "queues", "rx-"+strconv.Itoa(queue), "rps_flow_cnt")
}

// XPS is the file that says which processors send by a transmit queue of a device.
func XPS(dev string, queue int) string {
	return path.Join(devices, dev, "queues", "tx-"+strconv.Itoa(queue), "xps_cpus")
}

// devices is the folder that differs between network namespaces.
const devices = "/sys/class/net"

// shape says what the lines of some files look like.
type shape struct {
	paths *regexp.Regexp
	// read makes the kernel's text a Value, write the opposite.
	read, write func(string) (string, error)
}

// shapes is the table of everything that this kind touches.
var shapes = []shape{
	{regexp.MustCompile(`^/sys/devices/system/cpu/cpufreq/policy\d+/scaling_governor$`), word, word},
	{regexp.MustCompile(`^/proc/irq/\d+/smp_affinity_list$`), list, list},
	{regexp.MustCompile(`^/sys/class/net/[^/]+/queues/(rx-\d+/rps_cpus|tx-\d+/xps_cpus)$`), fromMask, toMask},
	{regexp.MustCompile(`^/sys/class/net/[^/]+/queues/rx-\d+/rps_flow_cnt$`), word, word},
}

func shapeOf(file string) (shape, error) {
	for _, s := range shapes {
		if s.paths.MatchString(file) && path.Clean(file) == file {
			return s, nil
		}
	}
	return shape{}, fmt.Errorf("%s isn't a file that plumb sets", file)
}

func word(text string) (string, error) { return strings.TrimSpace(text), nil }

func list(text string) (string, error) {
	set, err := resource.ParseCPUs(text)
	return set.String(), err
}

func fromMask(text string) (string, error) {
	set, err := resource.ParseCPUMask(text)
	return set.String(), err
}

func toMask(text string) (string, error) {
	set, err := resource.ParseCPUs(text)
	return set.Mask(), err
}

// ID implements resource.Resource.
func (f File) ID() resource.ID { return resource.ID{Kind: Kind, Name: f.Path} }

// After implements resource.Resource: what would move interrupts again has to be stopped before they are placed.
func (f File) After() []resource.ID {
	if strings.HasPrefix(f.Path, "/proc/irq/") {
		return []resource.ID{{Kind: "unit", Name: "irqbalance.service"}}
	}
	return nil
}

// DiesWith implements resource.Resource.
func (f File) DiesWith() []resource.ID { return nil }

// Requires implements resource.Resource.
func (f File) Requires() []features.Feature { return nil }

// Origin implements resource.Resource.
func (f File) Origin() string { return f.From }

// Describe implements resource.Describer: "/proc/irq/30/smp_affinity_list = 0-1".
func (f File) Describe() string { return f.Path + " = " + f.Value }

// Recorded implements resource.Recorder: the value from before is on record.
func (f File) Recorded() bool { return true }

// Restored implements resource.Restorer: what is gone with its device can't be brought back.
func (f File) Restored(*resource.Found) resource.Resource {
	if f.gone {
		return nil
	}
	return f
}

// Ops implements reconciler.Ops for files of the machine.
type Ops struct{}

// Diff lists what differs between the present and the desired value.
func (Ops) Diff(observed, desired File) (fields []resource.Field, inPlace bool) {
	if before, after := fold(observed), fold(desired); before != after {
		fields = append(fields, resource.Field{Name: "value", Before: before, After: after})
	}
	return fields, true
}

// fold makes values comparable: processors as sets, however they are listed.
func fold(f File) string {
	s, err := shapeOf(f.Path)
	if err != nil {
		return f.Value
	}
	text, err := s.write(f.Value)
	if err != nil {
		return f.Value
	}
	if text, err = s.read(text); err != nil {
		return f.Value
	}
	return text
}
