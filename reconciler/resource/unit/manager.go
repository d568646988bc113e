package unit

import "context"

// Manager is a service manager.
type Manager interface {
	// Active reports whether a service runs, or is about to. One that the machine hasn't got doesn't run.
	Active(ctx context.Context, name string) (bool, error)
	// Set starts or stops a service, and returns when that is done.
	Set(ctx context.Context, name string, active bool) error
	Close()
}
