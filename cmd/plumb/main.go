// Command plumb sets up the network of a machine from CUE files in git.
package main

import (
	"os"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/guard"
	"plumb.internal/plumb/internal/lab"
)

func main() {
	if compiler.RunEvaluator() || lab.RunChild() || guard.RunChild() {
		return
	}
	os.Exit(run())
}
