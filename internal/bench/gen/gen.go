// Package gen writes the repositories that the benchmarks measure.
package gen

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Form is how a repository of the benchmark is written.
type Form string

// The forms: one file of literal entries, many files of a hundred each, and one comprehension.
const (
	Literal       Form = "literal"
	Files         Form = "files"
	Comprehension Form = "comprehension"
)

// Size is how large a repository is.
type Size struct{ Pods, Services int }

// Write makes a repository of pods and services with three backends each in dir, which must exist.
func Write(dir string, size Size, form Form) error {
	switch form {
	case Literal:
		return writeFile(filepath.Join(dir, "plumb.cue"), func(w io.Writer) {
			header(w, size)
			writePods(w, 0, size.Pods)
			writeServices(w, 0, size.Services, size.Pods)
		})
	case Files:
		err := writeFile(filepath.Join(dir, "plumb.cue"), func(w io.Writer) { header(w, size) })
		if err != nil {
			return err
		}
		for from := 0; from < max(size.Pods, size.Services); from += 100 {
			err := writeFile(filepath.Join(dir, fmt.Sprintf("part-%05d.cue", from/100)), func(w io.Writer) {
				fmt.Fprintln(w, "package plumb")
				writePods(w, from, min(from+100, size.Pods))
				writeServices(w, from, min(from+100, size.Services), size.Pods)
			})
			if err != nil {
				return err
			}
		}
		return nil
	case Comprehension:
		return writeFile(filepath.Join(dir, "plumb.cue"), func(w io.Writer) {
			fmt.Fprint(w, "package plumb\n\nimport \"list\"\n")
			settings(w, size)
			fmt.Fprintf(w, comprehension, size.Pods, size.Services)
		})
	}
	return fmt.Errorf("write a repository: no form %q", form)
}

func writeFile(name string, text func(io.Writer)) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	text(w)
	if err := w.Flush(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func header(w io.Writer, size Size) {
	fmt.Fprint(w, "package plumb\n")
	settings(w, size)
}

func settings(w io.Writer, size Size) {
	fmt.Fprint(w, "\nnodes: bench: {\n\tuplinks: [\"eth0\"]\n\tpodCIDRs: [\"10.0.0.0/10\"]\n}\nrouting: mode: \"native\"\n")
	// Weights of 1, 2 and 3 take six slots a service, and there are four by default.
	fmt.Fprintf(w, "tuning: maps: services: %d\n", max(65536, 2*size.Services))
}

func writePods(w io.Writer, from, to int) {
	if from >= to {
		return
	}
	fmt.Fprintln(w, "\npods: {")
	for i := from; i < to; i++ {
		fmt.Fprintf(w, "\t\"pod-%d\": {addresses: [%q], attach: \"veth\", labels: app: \"app-%d\"}\n", i, address(1, i), i%50)
	}
	fmt.Fprintln(w, "}")
}

// writeServices writes services over pods, which are so many in all.
func writeServices(w io.Writer, from, to, pods int) {
	if from >= to {
		return
	}
	fmt.Fprintln(w, "\nservices: {")
	for i := from; i < to; i++ {
		fmt.Fprintf(w, "\t\"svc-%d\": {\n\t\taddresses: [%q]\n\t\tports: http: {port: 80, targetPort: 8080}\n", i, address(96, i))
		if i%10 == 0 {
			fmt.Fprint(w, "\t\talgorithm: \"maglev\"\n")
		}
		fmt.Fprint(w, "\t\tbackends: [\n")
		for k := range 3 {
			fmt.Fprintf(w, "\t\t\t{pod: \"pod-%d\", port: 8080, weight: %d},\n", (i+7*k)%pods, k+1)
		}
		fmt.Fprint(w, "\t\t]\n\t}\n")
	}
	fmt.Fprintln(w, "}")
}

func address(net, i int) string {
	return fmt.Sprintf("10.%d.%d.%d", net+i>>16, i>>8&255, i&255)
}

const comprehension = `
let N = %d
let M = %d
pods: {
	for i in list.Range(0, N, 1) {
		"pod-\(i)": {
			addresses: ["10.\(1+div(i, 65536)).\(mod(div(i, 256), 256)).\(mod(i, 256))"]
			attach: "veth"
			labels: app: "app-\(mod(i, 50))"
		}
	}
}
services: {
	for i in list.Range(0, M, 1) {
		"svc-\(i)": {
			addresses: ["10.\(96+div(i, 65536)).\(mod(div(i, 256), 256)).\(mod(i, 256))"]
			ports: http: {port: 80, targetPort: 8080}
			if mod(i, 10) == 0 {algorithm: "maglev"}
			backends: [for k in [0, 1, 2] {pod: "pod-\(mod(i+7*k, N))", port: 8080, weight: k + 1}]
		}
	}
}
`
