package compiler

import (
	"testing"

	"plumb.internal/plumb/reconciler/resource"
)

func TestTakesClients(t *testing.T) {
	for b, want := range map[resource.Backend]bool{
		{State: resource.Active, Weight: 1}:      true,
		{State: resource.Active}:                 false,
		{State: resource.Terminating, Weight: 1}: false,
		{State: resource.Maintenance, Weight: 1}: false,
	} {
		if got := takesClients(b); got != want {
			t.Errorf("takesClients(%+v) = %v", b, got)
		}
	}
}
