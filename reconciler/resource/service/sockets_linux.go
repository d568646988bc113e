package service

import (
	"context"

	"plumb.internal/plumb/internal/host"
)

func destroy(ctx context.Context, h *host.Host, cookies map[uint64]bool) error { return nil }
