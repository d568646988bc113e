package schema

import (
	"embed"
	"path"
)

// ImportPath is how a CUE file imports the schema.
const ImportPath = "plumb.internal/schema"

// FS is the schema as a CUE module: cue.mod/module.cue and schema.cue.
//
//go:embed cue.mod/module.cue schema.cue
var FS embed.FS

// Vendored returns the files, by slash-separated path, that make a folder a CUE module in which stock cue finds the schema
// offline: the module's own file, the schema, and one file that applies the schema to the package plumb.
func Vendored() map[string][]byte {
	return map[string][]byte{
		"cue.mod/module.cue": []byte(ModuleFile),
		path.Join("cue.mod/pkg", ImportPath, "schema.cue"): Source(),
		"schema.cue": []byte(Injected),
	}
}

// ModuleFile is the module.cue of a repository that has none of its own: its packages import each other below plumb.local.
const ModuleFile = "module: \"plumb.local@v0\"\nlanguage: version: \"v0.15.0\"\n"

// Injected is the file that applies the schema to the package that it is added to. It names each field, since embedding #Config
// would not close it: CUE allows more fields beside an embedding. The last line refuses any other field at the top.
const Injected = `package plumb

import "` + ImportPath + `"

nodes?:       schema.#Nodes
pods?:        schema.#Pods
podDefaults?: schema.#Pod
services?:    schema.#Services
routing?:     schema.#Routing
tuning?:      schema.#Tuning
checks?:      schema.#Checks

[!~"^(nodes|pods|podDefaults|services|routing|tuning|checks)$"]: _|_
`

// Source is the text of the schema.
func Source() []byte {
	b, err := FS.ReadFile("schema.cue")
	if err != nil {
		panic(err) // embedded: can't be missing
	}
	return b
}
