package cli

import (
	"context"

	"plumb.internal/plumb/reconciler/features"
)

// Features prints what this machine's kernel can do.
func (o *Options) Features(ctx context.Context, refresh bool) error {
	set, err := features.Cached(ctx, o.featuresFile(), refresh)
	if err != nil {
		return err
	}
	if o.JSON() {
		return set.WriteJSON(o.Out)
	}
	return set.Table(o.Out)
}
