package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/guard"
	"plumb.internal/plumb/internal/lab"
)

// TestMain makes this test binary the plumb that scripts run, so that they need nothing but it.
func TestMain(m *testing.M) {
	if compiler.RunEvaluator() || lab.RunChild() || guard.RunChild() {
		return
	}
	testscript.Main(m, map[string]func(){
		"plumb":    func() { os.Exit(run()) },
		"netprobe": netprobe,
		"asnobody": asNobody,
	})
}

// needRoot skips a test without root; under CI it fails.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}
