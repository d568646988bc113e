package features

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"plumb.internal/plumb/internal/netns"
)

// machine is what belongs to the whole machine, and where the calling thread's namespace shows its devices.
type machine struct {
	sys       string // /sys of the namespace
	done      func()
	guest     bool
	online    string
	isolated  string
	governors map[string][]string
	// interrupts are the names of those that are in use, by number.
	interrupts map[int][]string
}

// lookAtMachine reads it. What isn't there is left out: not every machine sets frequencies, and in a container much is
// hidden.
func lookAtMachine() (*machine, error) {
	m := &machine{guest: true, governors: map[string][]string{}}
	ours, err := netns.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("look at the network namespace: %w", err)
	}
	if first, err := netns.Stat("/proc/1/ns/net"); err == nil {
		m.guest = ours != first
	}
	m.online = line("/sys/devices/system/cpu/online")
	m.isolated = isolated(line("/sys/devices/system/cpu/isolated"), line("/sys/devices/system/cpu/nohz_full"))
	policies, _ := filepath.Glob("/sys/devices/system/cpu/cpufreq/policy*") // it fails for bad patterns only
	for _, p := range policies {
		m.governors[filepath.Base(p)] = strings.Fields(line(filepath.Join(p, "scaling_available_governors")))
	}
	if m.sys, m.done, err = netns.Sysfs(); err != nil {
		m.done = func() {} // then nothing is known of queues
		return m, nil
	}
	if data, err := os.ReadFile("/proc/interrupts"); err == nil && !m.guest {
		m.interrupts = interruptNames(data)
	}
	return m, nil
}

// isolated joins what was kept apart when the machine was booted. Old kernels say "(null)" of no processors.
func isolated(lists ...string) string {
	return strings.Join(slices.DeleteFunc(lists, func(l string) bool { return l == "" || l == "(null)" }), ",")
}

// line is what a file of one line holds; "" where there is none.
func line(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// describe adds what /sys tells of a device.
func (m *machine) describe(name string, d *Device) {
	if m.sys == "" {
		return
	}
	// No path is cleaned here: .. leads above what a symbolic link points to.
	dir := m.sys + "/class/net/" + name
	queues, err := os.ReadDir(dir + "/queues")
	if err != nil {
		return
	}
	for _, q := range queues {
		if strings.HasPrefix(q.Name(), "rx-") {
			d.RXQueues++
		} else {
			d.TXQueues++
		}
	}
	target, err := os.Readlink(dir + "/device")
	if err != nil {
		return // no hardware
	}
	bus := dir + "/device"
	if kind, err := os.Readlink(bus + "/subsystem"); err == nil && filepath.Base(kind) == "virtio" {
		bus += "/.." // what is on the bus of the machine carries it
	}
	d.LocalCPUs = line(bus + "/local_cpulist")
	var own []int
	msi, _ := os.ReadDir(bus + "/msi_irqs")
	for _, f := range msi {
		if n, err := strconv.Atoi(f.Name()); err == nil {
			own = append(own, n)
		}
	}
	d.IRQs = interruptsOf(m.interrupts, own, name, filepath.Base(target))
}

// interruptNames reads /proc/interrupts: a number, a count for each processor, the controller, and the names of the
// drivers. Interrupts that nobody uses have none.
func interruptNames(data []byte) map[int][]string {
	names := map[int][]string{}
	s := bufio.NewScanner(bytes.NewReader(data))
	s.Buffer(nil, 1<<20) // a line holds a column for each processor
	s.Scan()
	cpus := len(strings.Fields(s.Text()))
	for s.Scan() {
		number, rest, _ := strings.Cut(strings.TrimSpace(s.Text()), ":")
		n, err := strconv.Atoi(number)
		words := strings.FieldsFunc(rest, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' })
		if err != nil || len(words) <= cpus {
			continue
		}
		names[n] = words[cpus:]
	}
	return names
}

// interruptsOf picks those of a device: the ones that its bus lists, and the ones that are named after it. What only tells
// of changes to the device itself isn't a queue's.
func interruptsOf(names map[int][]string, own []int, called ...string) []int {
	var irqs []int
	for n, words := range names {
		mine := slices.Contains(own, n)
		for _, w := range words {
			mine = mine || slices.ContainsFunc(called, func(name string) bool { return calledAfter(w, name) })
		}
		if mine && !slices.ContainsFunc(words, func(w string) bool { return strings.HasSuffix(w, "-config") }) {
			irqs = append(irqs, n)
		}
	}
	// In the order of their numbers a driver may have a receive queue and a transmit queue in turn, and who serves them in turn
	// too would have half of the processors receive. So those of one kind stand together.
	kind := func(n int) string {
		last := names[n][len(names[n])-1]
		return strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return -1
			}
			return r
		}, last)
	}
	slices.SortFunc(irqs, func(a, b int) int { return cmp.Or(strings.Compare(kind(a), kind(b)), cmp.Compare(a, b)) })
	return irqs
}

// calledAfter reports whether a driver called an interrupt after something: "eth0-TxRx-3", "virtio2-input.0".
func calledAfter(word, name string) bool {
	rest, ok := strings.CutPrefix(word, name)
	return ok && (rest == "" || strings.ContainsRune("-_:.@", rune(rest[0])))
}
