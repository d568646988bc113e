// Command docs writes the page about what plumb chooses: docs PAGE FOLDER, with a folder of recorded features.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/reconciler/features"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: docs PAGE FOLDER")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(page, folder string) error {
	machines, err := features.ReadFolder(folder)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := compiler.WriteChoices(&b, machines); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(page), 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	if err := os.WriteFile(page, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return nil
}
