package compiler

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/format"
	"cuelang.org/go/cue/literal"
	"cuelang.org/go/cue/parser"

	"plumb.internal/plumb/schema"
)

// AddressFile is the file that `plumb allocate` writes into a repository.
const AddressFile = "addresses.cue"

const addressFileHead = `// Addresses of the pods that name none themselves, written by "plumb allocate". Git is the memory: a pod that stands
// here keeps its address. Nothing here makes a pod. Run it again when pods come or go.
`

// Allocate renders AddressFile for the whole fleet: the addresses of every pod for which no other file names any. previous
// is what the file holds now, or nil: its pods keep their addresses where those are still right. The file only constrains
// pods that another file names ("web?:"), so one that is gone from there drops out.
func Allocate(cfg *schema.Config, previous []byte) ([]byte, error) {
	old, err := readAddressFile(previous)
	if err != nil {
		return nil, err
	}
	f := readFleet(forget(cfg, old))
	if err := f.err(); err != nil {
		return nil, err
	}
	var ours []*pod
	for _, p := range f.pods {
		if len(p.Addresses) == 0 {
			ours = append(ours, p)
		}
	}
	f.keepPrevious(old)
	for _, n := range f.nodes {
		f.give(n, n.unaddressed())
	}
	if err := f.err(); err != nil {
		return nil, err
	}

	var b bytes.Buffer
	b.WriteString(addressFileHead + "package plumb\n\n")
	if len(ours) > 0 {
		b.WriteString("pods: {\n")
		for _, p := range ours {
			var list []string
			for _, a := range p.addrs {
				list = append(list, strconv.Quote(a.String()))
			}
			fmt.Fprintf(&b, "%s?: addresses: [%s]\n", field("", p.name), strings.Join(list, ", "))
		}
		b.WriteString("}\n")
	}
	text, err := format.Source(b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("format %s: %w", AddressFile, err)
	}
	return text, nil
}

// readAddressFile reads what Allocate wrote, also after a person changed an address in it. What has another shape is
// not this file's business and stays the person's.
func readAddressFile(text []byte) (map[string][]string, error) {
	if len(text) == 0 {
		return nil, nil
	}
	file, err := parser.ParseFile(AddressFile, text)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", AddressFile, err)
	}
	addrs := map[string][]string{}
	members(file.Decls, func(label string, pods ast.Expr) {
		if label != "pods" {
			return
		}
		structMembers(pods, func(pod string, fields ast.Expr) {
			structMembers(fields, func(label string, list ast.Expr) {
				l, ok := list.(*ast.ListLit)
				if label != "addresses" || !ok {
					return
				}
				for _, e := range l.Elts {
					if lit, ok := e.(*ast.BasicLit); ok {
						if s, err := literal.Unquote(lit.Value); err == nil {
							addrs[pod] = append(addrs[pod], s)
						}
					}
				}
			})
		})
	})
	return addrs, nil
}

func structMembers(x ast.Expr, visit func(label string, value ast.Expr)) {
	if s, ok := x.(*ast.StructLit); ok {
		members(s.Elts, visit)
	}
}

func members(decls []ast.Decl, visit func(label string, value ast.Expr)) {
	for _, d := range decls {
		if f, ok := d.(*ast.Field); ok {
			if label, _, err := ast.LabelName(f.Label); err == nil {
				visit(label, f.Value)
			}
		}
	}
}

// equal compares addresses as written; a pod without any equals nothing.
func equal(a, b []string) bool { return len(a) > 0 && slices.Equal(a, b) }
