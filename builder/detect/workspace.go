package detect

import (
	"encoding/json"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A folder of a repository may be more than a folder: a member of a workspace that
// has its lock file above, or part of a Go module. The parent then decides how
// dependencies are installed, and the folder what is built and started.

// climb looks above the folder for the nearest parent that it belongs to, and stores
// the result in s.top and s.at.
func (s *source) climb(belongs func(top *source, at string) bool) bool {
	for top := s.up(); top != nil; top = top.up() {
		at := strings.TrimPrefix(strings.TrimPrefix(s.folder, top.folder), "/")
		if !plainPath.MatchString(at) {
			return false // the name would need quoting in too many places
		}
		if belongs(top, at) {
			s.top, s.at = top, at
			return true
		}
	}
	return false
}

// above is the folder with the lock file: the workspace's root, or the folder
// itself.
func (s *source) above() *source {
	if s.top != nil {
		return s.top
	}
	return s
}

// member reports whether the patterns include a folder. A pattern with an
// exclamation mark excludes.
func member(patterns []string, dir string) (is bool) {
	for _, p := range patterns {
		p, not := strings.CutPrefix(p, "!")
		p = path.Clean(strings.TrimPrefix(p, "./"))
		var re strings.Builder
		for i := 0; i < len(p); i++ {
			switch {
			case strings.HasPrefix(p[i:], "**/"):
				re.WriteString("(.*/)?")
				i += 2
			case strings.HasPrefix(p[i:], "**"):
				re.WriteString(".*")
				i++
			case p[i] == '*':
				re.WriteString("[^/]*")
			default:
				re.WriteString(regexp.QuoteMeta(p[i : i+1]))
			}
		}
		if m, err := regexp.MatchString("^"+re.String()+"$", dir); err == nil && m {
			is = !not
		}
	}
	return is
}

// workspaces are the patterns of npm's, yarn's and bun's workspaces in a
// package.json, or those in pnpm's own file.
func (s *source) workspaces(j packageJSON) (patterns []string) {
	if text := s.read("pnpm-workspace.yaml"); text != "" {
		var w struct{ Packages []string }
		_ = yaml.Unmarshal([]byte(text), &w) // pnpm reports what is wrong with it
		return w.Packages
	}
	if json.Unmarshal(j.Workspaces, &patterns) != nil {
		var w struct{ Packages []string }
		_ = json.Unmarshal(j.Workspaces, &w) // npm reports it
		return w.Packages
	}
	return patterns
}

// nodeMember is a package of a workspace.
type nodeMember struct {
	dir string
	packageJSON
}

// maxDepth is how deep below the root to look for members of a workspace.
const maxDepth = 4

// nodeWorkspace finds the workspace that the folder is a member of: its root's
// package.json, and all of its members.
func nodeWorkspace(s *source) (root packageJSON, members []nodeMember) {
	if !s.climb(func(top *source, at string) bool {
		root = packageJSON{}
		return top.json("package.json", &root) == nil && member(top.workspaces(root), at)
	}) {
		return packageJSON{}, nil
	}
	return root, s.top.members(s.top.workspaces(root))
}

// members are the packages of a workspace with its root here.
func (s *source) members(patterns []string) (members []nodeMember) {
	_ = fs.WalkDir(s.tree, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir() || p == ".":
			return nil
		case strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || strings.Count(p, "/") >= maxDepth:
			return fs.SkipDir
		}
		m := nodeMember{dir: p}
		if member(patterns, p) && s.has(p+"/package.json") && s.json(p+"/package.json", &m.packageJSON) == nil {
			members = append(members, m)
		}
		return nil
	})
	return members
}

// buildOrder returns the members that the one at dir depends on and that have their
// own build, each after those that it needs.
func buildOrder(members []nodeMember, dir string) (order []nodeMember) {
	var visit func(dir string, path []string)
	visit = func(at string, from []string) {
		i := slices.IndexFunc(members, func(m nodeMember) bool { return m.dir == at })
		if i < 0 || slices.Contains(from, at) {
			return
		}
		for _, m := range members {
			if m.Name != "" && members[i].has(m.Name) {
				visit(m.dir, append(slices.Clone(from), at))
			}
		}
		if at != dir && plainPath.MatchString(at) && members[i].Scripts["build"] != "" && !slices.ContainsFunc(order, func(m nodeMember) bool { return m.dir == at }) {
			order = append(order, members[i])
		}
	}
	visit(dir, nil)
	return order
}
