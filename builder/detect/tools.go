package detect

import (
	"encoding/json"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// said is a version that a file asks for, and the file.
type said struct{ text, from string }

// firstSaid is the first that has a value.
func firstSaid(list ...said) said {
	for _, s := range list {
		if s.text = strings.TrimSpace(s.text); s.text != "" {
			return s
		}
	}
	return said{}
}

// numeric keeps the number of a version: "temurin-21.0.2" asks for 21.0.2.
func numeric(s said) said { return said{number.FindString(s.text), s.from} }

// miseFiles are where mise looks for the tools of a project, without those that a
// person keeps for one machine (https://mise.jdx.dev/configuration.html).
var miseFiles = []string{"mise.toml", ".mise.toml", "mise/config.toml", ".mise/config.toml", ".config/mise.toml", ".config/mise/config.toml"}

// tool is the version of a tool under any of its names, in the files of mise and asdf.
// A folder without its own gets those of the folders above it, as both programs do. A
// file that mise cannot read either is left alone: it says nothing about the version.
func (s *source) tool(names ...string) said {
	for at := s; at != nil; at = at.up() {
		for _, f := range miseFiles {
			if v := miseTool(at.read(f), names); v != "" {
				return said{v, f}
			}
		}
		if v := railpackTool(at.read("railpack.json"), names); v != "" {
			return said{v, "railpack.json"}
		}
		for l := range strings.SplitSeq(at.read(".tool-versions"), "\n") {
			if f := strings.Fields(l); len(f) > 1 && slices.Contains(names, f[0]) {
				return said{plainVersion(f[1]), ".tool-versions"}
			}
		}
	}
	return said{}
}

// railpackTool reads one version out of "packages" of a railpack.json
// (https://railpack.com/config/file).
func railpackTool(text string, names []string) string {
	var file struct{ Packages texts }
	if text == "" || json.Unmarshal([]byte(plainJSON(text)), &file) != nil {
		return ""
	}
	for _, n := range names {
		if v := plainVersion(file.Packages[n]); v != "" {
			return v
		}
	}
	return ""
}

// miseTool reads one version out of [tools]: a text, the first of a list, or the
// version of a table. A name may begin with a backend ("core:node").
func miseTool(text string, names []string) string {
	var file struct{ Tools map[string]any }
	if text == "" || toml.Unmarshal([]byte(text), &file) != nil {
		return ""
	}
	for _, n := range names {
		for _, key := range []string{n, "core:" + n} {
			if v := miseVersion(file.Tools[key]); v != "" {
				return v
			}
		}
	}
	return ""
}

func miseVersion(v any) string {
	switch v := v.(type) {
	case string:
		return plainVersion(v)
	case []any:
		if len(v) > 0 {
			return miseVersion(v[0])
		}
	case map[string]any:
		return miseVersion(v["version"])
	}
	return ""
}

// plainVersion removes mise's "prefix:". What is built from a ref or lies in a folder
// is not a version.
func plainVersion(v string) string {
	if what, rest, ok := strings.Cut(v, ":"); ok {
		if what != "prefix" {
			return ""
		}
		v = rest
	}
	if v == "system" {
		return ""
	}
	return v
}

// up is the folder above, within the tree, or nil.
func (s *source) up() *source {
	if s.folder == "" || s.whole == nil {
		return nil
	}
	dir := path.Dir(s.folder)
	tree, err := fs.Sub(s.whole, dir)
	if err != nil {
		return nil
	}
	return &source{tree: tree, whole: s.whole, folder: strings.TrimPrefix(dir, "."), set: s.set}
}
