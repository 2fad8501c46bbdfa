package detect

import (
	"io/fs"
	"path"
	"strings"
)

// uvAbove looks for the workspace of uv that lists the folder: its lock file, and the
// packages in the tree that the folder depends on, are there
// (https://docs.astral.sh/uv/concepts/projects/workspaces/).
func uvAbove(s *source, p *plan, project pyproject) bool {
	if s.folder == "" || s.first(pythonFiles...) != "" || !plainWord.MatchString(project.Project.Name) {
		return false
	}
	if !s.climb(func(top *source, at string) bool {
		w := uvWorkspace(top)
		return top.has("uv.lock") && member(w.Members, at) && !member(w.Exclude, at)
	}) {
		return false
	}
	p.found("member of a workspace", path.Join(s.top.folder, "pyproject.toml")+" above it")
	return true
}

type uvMembers struct{ Members, Exclude []string }

func uvWorkspace(top *source) uvMembers {
	var root struct {
		Tool struct{ Uv struct{ Workspace uvMembers } }
	}
	if top.toml("pyproject.toml", &root) != nil {
		return uvMembers{} // uv reports it
	}
	return root.Tool.Uv.Workspace
}

// uvInstallMember installs a member and what it depends on, everything that is not in
// the tree first. Packages in the tree are installed as for development, so the image
// has the whole workspace at the same place.
func uvInstallMember(s *source, p *plan, project pyproject) {
	p.found("uv sync --package "+project.Project.Name, "uv.lock of the workspace")
	sync := pythonCache + "UV_PROJECT_ENVIRONMENT=/venv UV_LINK_MODE=copy uv sync --frozen --no-dev --package " + project.Project.Name + " --python \"$(command -v python3)\""
	p.build = []string{pythonCache + "pip install uv", "COPY pyproject.toml uv.lock ./"}
	w := uvWorkspace(s.top)
	_ = fs.WalkDir(s.top.tree, ".", func(dir string, d fs.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir() || dir == ".":
			return nil
		case strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || strings.Count(dir, "/") >= maxDepth:
			return fs.SkipDir
		case member(w.Members, dir) && !member(w.Exclude, dir) && plainPath.MatchString(dir) && s.top.has(dir+"/pyproject.toml"):
			p.build = append(p.build, "COPY "+dir+"/pyproject.toml "+dir+"/")
		}
		return nil
	})
	p.build = append(p.build, sync+" --no-install-workspace", "COPY . .", sync)
	p.dir = s.at
}
