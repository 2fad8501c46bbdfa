package manifest

import (
	"path"
	"slices"
	"strings"

	"mesh"
)

// Touches reports whether two trees differ in a file whose path matches one of the
// patterns of watch=.
func Touches(watch []string, before, after mesh.Tree) bool {
	was := map[string]mesh.TreeEntry{}
	for _, e := range before.Entries() {
		if !e.Mode.IsDir() || e.Module != "" {
			was[e.Path] = e
		}
	}
	for _, e := range after.Entries() {
		if e.Mode.IsDir() && e.Module == "" {
			continue
		}
		old, there := was[e.Path]
		delete(was, e.Path)
		if (!there || old != e) && matchAny(watch, e.Path) {
			return true
		}
	}
	for p := range was { // removed files
		if matchAny(watch, p) {
			return true
		}
	}
	return false
}

func matchAny(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(w string) bool {
		return matchPath(strings.Split(strings.Trim(w, "/"), "/"), strings.Split(p, "/"))
	})
}

// matchPath matches a path like a .gitignore pattern that begins with a slash: "**"
// matches any number of folders, and a pattern that names a folder matches everything
// in it.
func matchPath(pattern, p []string) bool {
	for len(pattern) > 0 {
		if pattern[0] == "**" {
			for i := range len(p) + 1 {
				if matchPath(pattern[1:], p[i:]) {
					return true
				}
			}
			return false
		}
		if len(p) == 0 {
			return false
		}
		if ok, err := path.Match(pattern[0], p[0]); err != nil || !ok {
			return false
		}
		pattern, p = pattern[1:], p[1:]
	}
	return true
}
