package detect

import (
	"path"
	"regexp"
	"strings"
)

// Site generators in Python: a tree with one of them may also be a program, which then
// comes first.

var (
	mkdocsOut     = regexp.MustCompile(`(?m)^site_dir:\s*["']?([\w./-]+)`)
	sphinxConf    = regexp.MustCompile(`(?m)^\s*(extensions|html_theme|master_doc|project)\s*=`)
	pelicanOutput = regexp.MustCompile(`(?m)^OUTPUT_PATH\s*=\s*["']([\w./-]+)`)
)

// pythonProgram reports whether a tree has something else in Python to start.
func (s *source) pythonProgram() bool {
	if s.first("requirements.txt", "pyproject.toml", "Pipfile", "uv.lock") != "" && (s.set.StartCommand != "" || s.has("Procfile")) {
		return true
	}
	return s.first("manage.py", "main.py", "app.py", "server.py", "wsgi.py", "asgi.py", "config.ru") != "" || strings.Contains(s.read("pyproject.toml"), "[project.scripts]")
}

// requirementsWith is the first file of requirements that names a package.
func (s *source) requirementsWith(name string, dirs ...string) string {
	re := regexp.MustCompile(`(?im)^\s*["']?` + name + `([\s\[=<>~!;,"']|$)`)
	for _, d := range append([]string{"."}, dirs...) {
		for _, f := range append(s.files(d, "requirements*.txt"), s.files(d, "pyproject.toml")...) {
			if re.MatchString(s.read(f)) {
				return f
			}
		}
	}
	return ""
}

func mkdocsSign(s *source) string {
	f := s.first("mkdocs.yml", "mkdocs.yaml")
	if f == "" || s.pythonProgram() || s.first("package.json", "go.mod", "Cargo.toml", "composer.json") != "" {
		return ""
	}
	if s.first("requirements.txt", "pyproject.toml", "Pipfile", "setup.py", "uv.lock") != "" && s.requirementsWith("mkdocs[a-z-]*", "docs", "requirements") == "" {
		return ""
	}
	return f
}

// mkdocs builds a site with the packages of its requirements, or with those of the theme
// and the plugins in its configuration (https://www.mkdocs.org/user-guide/cli/#mkdocs-get-deps).
func mkdocs(s *source, p *plan) error {
	config := s.first("mkdocs.yml", "mkdocs.yaml")
	text := s.read(config)
	requirements := s.requirementsWith("mkdocs[a-z-]*", "docs", "requirements")
	if err := s.pythonSite(p, requirements, []string{"mkdocs<2"}); err != nil {
		return err
	}
	if requirements == "" { // MkDocs knows the packages of its themes and plugins
		p.found("installs what mkdocs get-deps prints", config)
		p.build = append(p.build, "COPY "+config+" ./", "RUN --mount=type=cache,target=/root/.cache pip install $(mkdocs get-deps)")
	}
	p.copyAll()
	p.build = append(p.build, s.siteRun(p, "mkdocs build --clean", config))
	out := group(mkdocsOut, text)
	if out == "" {
		out = "site"
	}
	return s.generated(p, path.Clean(out), config)
}

func pelicanSign(s *source) string {
	if s.has("pelicanconf.py") && !s.has("manage.py") {
		return "pelicanconf.py"
	}
	return ""
}

func pelican(s *source, p *plan) error {
	config := s.first("publishconf.py", "pelicanconf.py")
	if err := s.pythonSite(p, s.requirementsWith("pelican"), []string{"pelican[markdown]"}); err != nil {
		return err
	}
	p.copyAll()
	p.build = append(p.build, s.siteRun(p, "pelican content -s "+config+" -o output", config))
	if out := group(pelicanOutput, s.read("pelicanconf.py")); out != "" && out != "output" && out != "output/" {
		p.found("writes to output/", "not to "+out)
	}
	return s.generated(p, "output", config)
}

// sphinxDir is the folder with Sphinx's configuration.
func sphinxDir(s *source) string {
	for _, d := range []string{".", "docs", "doc", "source", "docs/source", "doc/source"} {
		if sphinxConf.MatchString(s.read(path.Join(d, "conf.py"))) {
			return d
		}
	}
	return ""
}

// sphinxSign leaves a library alone that only has documentation: the tree is a site if
// its requirements name Sphinx, or if there is no other Python.
func sphinxSign(s *source) string {
	d := sphinxDir(s)
	if d == "" || s.pythonProgram() || s.first("setup.py", "package.json", "go.mod", "Cargo.toml", "CMakeLists.txt") != "" {
		return ""
	}
	if s.requirementsWith("sphinx", "docs", "doc", d) == "" && s.first("requirements.txt", "pyproject.toml", "Pipfile") != "" {
		return ""
	}
	return path.Join(d, "conf.py")
}

func sphinx(s *source, p *plan) error {
	d := sphinxDir(s)
	theme := group(regexp.MustCompile(`(?m)^\s*html_theme\s*=\s*["']([a-z][\w-]*)["']`), s.read(path.Join(d, "conf.py")))
	packages := []string{"sphinx"}
	if t := map[string]string{"sphinx_rtd_theme": "sphinx-rtd-theme", "furo": "furo", "sphinx_book_theme": "sphinx-book-theme", "pydata_sphinx_theme": "pydata-sphinx-theme"}[theme]; t != "" {
		packages = append(packages, t)
	}
	if strings.Contains(s.read(path.Join(d, "conf.py")), "myst_parser") {
		packages = append(packages, "myst-parser")
	}
	if err := s.pythonSite(p, s.requirementsWith("sphinx", "docs", "doc", d), packages); err != nil {
		return err
	}
	p.copyAll()
	p.build = append(p.build, s.siteRun(p, "sphinx-build -b dirhtml "+d+" _build/html", path.Join(d, "conf.py")))
	return s.generated(p, "_build/html", path.Join(d, "conf.py"))
}

// pythonSite installs a generator: with a file of requirements, or the packages alone.
func (s *source) pythonSite(p *plan, requirements string, packages []string) error {
	version := p.version("Python", firstSaid(said{s.line(".python-version"), ".python-version"}, s.tool("python"), said{strings.TrimPrefix(s.line("runtime.txt"), "python-"), "runtime.txt"}), 2, pythonLines...)
	release, err := debian(s, "Python", version)
	if err != nil {
		return err
	}
	p.buildImage, p.release = "python:"+version+"-slim-"+release, release
	p.debianNeeds("", "git") // for plugins that read the history, and packages from git
	const cache = "RUN --mount=type=cache,target=/root/.cache "
	switch {
	case requirements == "":
		quoted := make([]string, len(packages))
		for i, n := range packages {
			quoted[i] = word(n)
		}
		p.found("installs "+strings.Join(packages, " "), "no requirements name it")
		p.build = append(p.build, cache+"pip install "+strings.Join(quoted, " "))
	case strings.HasSuffix(requirements, ".toml"):
		p.found("pip install .", requirements)
		p.build = append(p.build, "COPY . .", cache+"pip install ./"+path.Dir(requirements))
	case regexp.MustCompile(`(?m)^\s*(-r|--requirement|-c|-e|\.)`).MatchString(s.read(requirements)):
		p.found("copies everything before installing", "paths in "+requirements)
		p.build = append(p.build, "COPY . .", cache+"pip install -r "+requirements)
	default:
		p.found("pip install -r "+requirements, requirements)
		p.build = append(p.build, "COPY "+requirements+" "+requirements, cache+"pip install -r "+requirements)
	}
	return nil
}
