package daemon

import (
	"log/slog"
	"os"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// Systemd returns what tells systemd how the daemon is, and how often it wants to hear that it lives; both do nothing
// without systemd.
func Systemd(log *slog.Logger) (notify func(state string), watchdog time.Duration) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return func(string) {}, 0
	}
	watchdog, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("systemd's watchdog time can't be read", "err", err)
	}
	return func(state string) {
		if _, err := sd.SdNotify(false, state); err != nil {
			log.Debug("systemd can't be told", "state", state, "err", err)
		}
	}, watchdog
}
