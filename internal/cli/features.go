package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"plumb.internal/plumb/reconciler/features"
)

// Features prints what this machine's kernel can do.
func (o *Options) Features(ctx context.Context, refresh bool) error {
	set, err := features.Cached(ctx, o.featuresFile(), refresh)
	switch {
	case set == nil:
		return err
	case errors.Is(err, fs.ErrPermission):
		// Without root nothing can be kept, and most answers are "unknown (needs root)" anyway.
	case err != nil:
		fmt.Fprintln(o.Err, "warning:", err)
	}
	if o.JSON() {
		return set.WriteJSON(o.Out)
	}
	return set.Table(o.Out)
}
