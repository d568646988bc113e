package cli

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// needRoot fails, in one line, where the process may not do what the command does.
func needRoot(command string) error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			have, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			if err != nil {
				return fmt.Errorf("read own capabilities: %w", err)
			}
			if need := uint64(1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SYS_ADMIN); have&need != need {
				return fmt.Errorf("plumb %s needs root, or the capabilities NET_ADMIN and SYS_ADMIN (try sudo)", command)
			}
		}
	}
	return nil
}
