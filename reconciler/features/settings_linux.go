package features

import (
	"os"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

const procSys = "/proc/sys/"

// congestion reads which algorithms TCP has. Kernels before 5.5 tell it in the first network namespace alone.
func congestion() *Congestion {
	available, err := os.ReadFile(procSys + "net/ipv4/tcp_available_congestion_control")
	if err != nil {
		return nil
	}
	allowed, err := os.ReadFile(procSys + "net/ipv4/tcp_allowed_congestion_control")
	if err != nil {
		return nil
	}
	return &Congestion{strings.Fields(string(available)), strings.Fields(string(allowed))}
}

// sysctls looks which of [Sysctls] the calling thread's namespace has.
func sysctls() []string {
	there := []string{}
	for _, key := range Sysctls {
		if _, err := os.Stat(procSys + strings.ReplaceAll(key, ".", "/")); err == nil {
			there = append(there, key)
		}
	}
	return there
}

// preempt asks the scheduler, which tells it to those who have debugfs: "none voluntary (full)". Else the kernel's banner
// names what it was built for, unless that can be chosen when it boots.
func preempt() string {
	if data, err := os.ReadFile("/sys/kernel/debug/sched/preempt"); err == nil {
		if m := chosenWord.FindSubmatch(data); m != nil {
			return string(m[1])
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return builtPreempt(strings.Fields(unix.ByteSliceToString(u.Version[:])))
}

var chosenWord = regexp.MustCompile(`\((\w+)\)`)

// builtPreempt is what a banner says. Kernels that say nothing are none or voluntary.
func builtPreempt(banner []string) string {
	for _, word := range banner {
		switch word {
		case "PREEMPT":
			return "full"
		case "PREEMPT_RT":
			return "rt"
		case "PREEMPT_LAZY":
			return "lazy"
		}
	}
	return ""
}
