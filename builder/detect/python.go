package detect

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

var pythonLines = []string{"3.13", "3.12", "3.11", "3.10", "3.9", "3.14", "3.8"}

// pythonNeeds are distributions that are compiled against a library, or that run a
// program.
var pythonNeeds = map[string]needs{
	"psycopg2":        {build: "build-essential libpq-dev", run: "libpq5"},
	"psycopg":         {run: "libpq5"},
	"mysqlclient":     {build: "build-essential pkg-config default-libmysqlclient-dev", run: "libmariadb3"},
	"pycairo":         {build: "build-essential pkg-config libcairo2-dev", run: "libcairo2"},
	"pdf2image":       {run: "poppler-utils"},
	"pydub":           {run: "ffmpeg"},
	"python-magic":    {run: "libmagic1"},
	"pytesseract":     {run: "tesseract-ocr"},
	"weasyprint":      {run: "libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"},
	"uwsgi":           {build: "build-essential"},
	"python-ldap":     {build: "build-essential libldap2-dev libsasl2-dev", run: "libldap-2.5-0 libsasl2-2"},
	"xmlsec":          {build: "build-essential pkg-config libxmlsec1-dev", run: "libxmlsec1-openssl"},
	"opencv-python":   {run: "libgl1 libglib2.0-0"},
	"pygraphviz":      {build: "build-essential libgraphviz-dev", run: "graphviz"},
	"django-gdal":     {run: "gdal-bin"},
	"psycopg2cffi":    {build: "build-essential libpq-dev libffi-dev", run: "libpq5"},
	"python-snappy":   {build: "build-essential libsnappy-dev", run: "libsnappy1v5"},
	"confluent-kafka": {run: "librdkafka1"},
	clones:            {build: "git ca-certificates"},
}

type pyproject struct {
	Project struct {
		RequiresPython string `toml:"requires-python"`
		Dependencies   []string
		Scripts        map[string]string
	}
	Tool struct {
		Poetry struct {
			Dependencies map[string]any
			Scripts      map[string]any
		}
	}
	BuildSystem struct {
		Requires []string
	} `toml:"build-system"`
}

type pipfile struct {
	Packages map[string]any
	Requires struct {
		PythonVersion string `toml:"python_version"`
		PythonFull    string `toml:"python_full_version"`
	}
}

func python(s *source, p *plan) error {
	var project pyproject
	if err := s.toml("pyproject.toml", &project); err != nil {
		return err
	}
	var pip pipfile
	if err := s.toml("Pipfile", &pip); err != nil {
		return err
	}
	v := firstSaid(
		said{s.line(".python-version"), ".python-version"},
		said{strings.TrimPrefix(s.line("runtime.txt"), "python-"), "runtime.txt"},
		s.tool("python"),
		said{pip.Requires.PythonVersion, "python_version in Pipfile"},
		said{pip.Requires.PythonFull, "python_full_version in Pipfile"},
		said{project.Project.RequiresPython, "requires-python in pyproject.toml"},
		said{fmt.Sprint(orNothing(project.Tool.Poetry.Dependencies["python"])), "python in pyproject.toml"},
	)
	version := p.version("Python", v, 2, pythonLines...)
	var err error
	if p.release, err = debian(s, "Python", version); err != nil {
		return err
	}
	p.image = "python:" + version + "-slim-" + p.release
	p.env = []string{"PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "PATH=/venv/bin:$PATH"}
	deps := pythonDependencies(s, project, pip)
	has := func(n string) bool { return deps[n] }
	p.add(pythonNeeds, has)
	p.final = []string{"COPY --chown=%OWNER . ."}
	again := pythonInstall(s, p)
	if len(p.build) > 0 {
		p.final = append([]string{"COPY --from=build /venv /venv"}, p.final...)
	}
	found, why := pythonStart(s, p, has, project)
	if command := s.buildCommand(p, pythonBuild(s, p), "STATIC_ROOT in the settings"); command != "" {
		p.final = append(p.final, "RUN "+withConfig+readConfig+command)
		if strings.Contains(command, "collectstatic") {
			p.final = append(p.final, "RUN chown -R %OWNER /app")
		}
	}
	started := strings.Join([]string{s.set.StartCommand, s.read("Procfile"), found}, "\n")
	for _, n := range slices.Concat(slices.Sorted(maps.Keys(project.Project.Scripts)), slices.Sorted(maps.Keys(project.Tool.Poetry.Scripts))) {
		if again != nil && regexp.MustCompile(`(?m)(^|[\s:;&|])`+regexp.QuoteMeta(n)+`(\s|$)`).MatchString(started) {
			p.found("installs the project itself", "the start command uses its script "+n)
			p.build = append(p.build, again...)
			break
		}
	}
	return s.start(p, found, why, "manage.py, main.py, app.py, server.py or one of [project.scripts]")
}

func orNothing(v any) any {
	if s, ok := v.(string); ok {
		return s
	}
	return ""
}

// clones is in the list of dependencies if one of them is cloned; no real name
// contains a blank.
const clones = "git repositories among the dependencies"

var requirement = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*`)

// pythonDependencies are the names of the dependencies, normalized as in PEP 503.
func pythonDependencies(s *source, project pyproject, pip pipfile) map[string]bool {
	deps := map[string]bool{}
	add := func(text string) {
		n := requirement.FindString(strings.TrimSpace(text))
		if n != "" {
			deps[strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(n))] = true
		}
	}
	var file func(name string, depth int)
	file = func(name string, depth int) {
		for l := range strings.SplitSeq(s.read(name), "\n") {
			deps[clones] = deps[clones] || gitRequirement.MatchString(l)
			if m := requirements.FindStringSubmatch(l); m != nil && depth < 5 {
				file(path.Join(path.Dir(name), m[1]), depth+1)
				continue
			}
			add(l)
		}
	}
	file("requirements.txt", 0)
	for _, d := range project.Project.Dependencies {
		add(d)
	}
	for n := range project.Tool.Poetry.Dependencies {
		add(n)
	}
	for n := range pip.Packages {
		add(n)
	}
	for _, lock := range []string{"uv.lock", "poetry.lock", "Pipfile.lock", "Pipfile", "pyproject.toml"} {
		if gitRequirement.MatchString(s.read(lock)) {
			deps[clones] = true
		}
	}
	return deps
}

var (
	requirements     = regexp.MustCompile(`^\s*(?:-r|--requirement)[\s=]*([^\s#]+)`)
	localRequirement = regexp.MustCompile(`(?m)^\s*(-e\s+|--editable[ =]\s*)?(\.|file:)|^\s*(-r|-c|-f|--requirement|--constraint|--find-links)[\s=\w]|@\s*file:`)
	// gitRequirement is a dependency that pip, uv, poetry or pipenv clones, in a
	// lock file or not.
	gitRequirement = regexp.MustCompile(`(?m)\bgit\+(https?|ssh|git|file):|source = \{ git = |^type = "git"|"git": "|\bgit\s*=\s*["']`)
)

// Dependencies in the tree itself, as lock files list them.
var (
	uvLocal     = regexp.MustCompile(`source = \{ (directory|editable|virtual|path) = "[^."]`)
	poetryLocal = regexp.MustCompile(`(?m)^type = "(directory|file)"`)
	pipenvLocal = regexp.MustCompile(`"(path|file)":\s*"[^"]`)
)

// pythonInstall fills the build stage: an environment in /venv with the project's
// dependencies. It returns the instructions that install the project itself, if they
// are left out.
func pythonInstall(s *source, p *plan) (again []string) {
	whole := func(install string) []string {
		if !slices.Contains(p.build, "COPY . .") {
			again = append(again, "COPY . .")
		}
		return append(again, install)
	}
	cache := "RUN --mount=type=cache,target=/root/.cache "
	p.build = []string{"RUN python -m venv /venv"}
	copied := func(lock string, local *regexp.Regexp, files string) string {
		if local.MatchString(s.read(lock)) {
			p.found("copies everything before installing", "paths in "+lock)
			return "COPY . ."
		}
		return "COPY " + files + " ./"
	}
	switch {
	case s.has("uv.lock"):
		p.found("uv sync", "uv.lock")
		p.build = []string{
			cache + "pip install uv", copied("uv.lock", uvLocal, "pyproject.toml uv.lock"),
			cache + "UV_PROJECT_ENVIRONMENT=/venv UV_LINK_MODE=copy uv sync --frozen --no-dev --no-install-project --python \"$(command -v python3)\"",
		}
		// In both, installed as for development: files that the program reads are
		// beside its code.
		return whole(cache + "UV_PROJECT_ENVIRONMENT=/venv UV_LINK_MODE=copy uv sync --frozen --no-dev --python \"$(command -v python3)\"")
	case s.has("poetry.lock"):
		p.found("poetry install", "poetry.lock")
		// Before the environment exists, so that poetry is not in it and not in the
		// image.
		p.build = append([]string{cache + "pip install poetry"}, append(p.build, copied("poetry.lock", poetryLocal, "pyproject.toml poetry.lock"), cache+"VIRTUAL_ENV=/venv poetry install --only main --no-root --no-interaction")...)
		return whole(cache + "VIRTUAL_ENV=/venv poetry install --only-root --no-interaction")
	case s.has("Pipfile.lock"):
		p.found("pipenv sync", "Pipfile.lock")
		p.build = append([]string{cache + "pip install pipenv"}, append(p.build, copied("Pipfile.lock", pipenvLocal, "Pipfile Pipfile.lock"), cache+"VIRTUAL_ENV=/venv PIPENV_VERBOSITY=-1 pipenv sync")...)
	case s.has("requirements.txt"):
		p.found("pip install -r requirements.txt", "requirements.txt")
		if localRequirement.MatchString(s.read("requirements.txt")) {
			p.found("copies everything before installing", "paths in requirements.txt")
			p.build = append(p.build, "COPY . .")
		} else {
			p.build = append(p.build, "COPY requirements.txt ./")
		}
		p.build = append(p.build, cache+"pip install -r requirements.txt")
		return whole(cache + "pip install --no-deps .")
	case s.has("Pipfile"):
		p.found("pipenv install", "Pipfile, no lock file")
		p.build = append([]string{cache + "pip install pipenv"}, append(p.build, "COPY Pipfile ./", cache+"VIRTUAL_ENV=/venv PIPENV_VERBOSITY=-1 pipenv install --skip-lock")...)
	case s.has("pyproject.toml") && strings.Contains(s.read("pyproject.toml"), "[project]"), s.has("setup.py"):
		p.found("pip install .", s.first("pyproject.toml", "setup.py"))
		p.build = append(p.build, "COPY . .", cache+"pip install .")
	default:
		p.found("installs nothing", "no requirements.txt")
		p.build = nil
		p.env = p.env[:2]
	}
	return nil
}

// pythonBuild is what Django runs once at build time, or empty.
func pythonBuild(s *source, p *plan) string {
	if p.Framework != "Django" {
		return ""
	}
	for _, f := range append(s.glob("settings.py"), s.glob("settings/base.py")...) {
		if regexp.MustCompile(`(?m)^STATIC_ROOT\s*=`).MatchString(s.read(f)) {
			return "SECRET_KEY=only-for-the-build python manage.py collectstatic --noinput"
		}
	}
	return ""
}

var (
	flaskApp   = regexp.MustCompile(`(?m)^(\w+)\s*(?::\s*[\w.]+\s*)?=\s*(?:flask\.)?Flask\(`)
	fastAPIApp = regexp.MustCompile(`(?m)^(\w+)\s*(?::\s*[\w.]+\s*)?=\s*(?:fastapi\.)?FastAPI\(`)
	appFactory = regexp.MustCompile(`(?m)^def (create_app|make_app)\(`)
)

// modules are the files in which to look for a web app's object.
func (s *source) modules() []string {
	list := s.presentFiles("wsgi.py", "asgi.py", "app.py", "main.py", "server.py", "application.py", "api.py")
	for _, n := range []string{"app.py", "main.py", "wsgi.py", "__init__.py"} {
		list = append(list, s.glob(n)...)
	}
	sub, err := fs.Sub(s.tree, "src")
	if err != nil {
		return list
	}
	src := &source{tree: sub}
	for _, n := range []string{"app.py", "main.py", "wsgi.py", "__init__.py"} {
		for _, f := range src.glob(n) {
			list = append(list, "src/"+f)
		}
	}
	return list
}

func (s *source) presentFiles(names ...string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !s.has(n) })
}

// module is a file's name as Python imports it.
func module(file string) string {
	m := strings.TrimSuffix(strings.TrimSuffix(file, ".py"), "/__init__")
	return strings.ReplaceAll(strings.TrimPrefix(m, "src/"), "/", ".")
}

func pythonStart(s *source, p *plan, has func(string) bool, project pyproject) (command, why string) {
	find := func(what *regexp.Regexp) (string, string, string) {
		for _, f := range s.modules() {
			if m := what.FindStringSubmatch(s.read(f)); m != nil {
				if strings.HasPrefix(f, "src/") {
					p.env = append(p.env, "PYTHONPATH=/app/src") // as in an editor
				}
				return module(f), m[1], f
			}
		}
		return "", "", ""
	}
	switch {
	case s.has("manage.py") && has("django"):
		p.Framework = "Django"
		for _, f := range s.glob("wsgi.py") {
			if has("gunicorn") {
				return "gunicorn " + module(f), f + ", with gunicorn in the requirements"
			}
		}
		return "python manage.py runserver --noreload 0.0.0.0:$PORT", "manage.py; Django's own server, because gunicorn is not in the requirements"
	case has("fastapi"):
		p.Framework = "FastAPI"
		if m, v, f := find(fastAPIApp); m != "" {
			return fmt.Sprintf("uvicorn %s:%s --host 0.0.0.0 --port $PORT", m, v), f
		}
	case has("flask"):
		p.Framework = "Flask"
		m, v, f := find(flaskApp)
		if m == "" {
			if m, v, f = find(appFactory); m != "" {
				v += "()"
			}
		}
		switch {
		case m != "" && has("gunicorn"):
			return fmt.Sprintf("gunicorn '%s:%s'", m, v), f + ", with gunicorn in the requirements"
		case m != "":
			return fmt.Sprintf("flask --app '%s:%s' run --host 0.0.0.0 --port $PORT", m, v), f + "; Flask's own server, because gunicorn is not in the requirements"
		}
	}
	if f := s.first("main.py", "app.py", "server.py", "bot.py", "src/main.py", "src/app.py"); f != "" {
		return "python " + f, f
	}
	names := slices.Sorted(maps.Keys(project.Project.Scripts))
	if len(names) == 1 {
		return word(names[0]), "[project.scripts] in pyproject.toml"
	}
	if names := slices.Sorted(maps.Keys(project.Tool.Poetry.Scripts)); len(names) == 1 {
		return word(names[0]), "[tool.poetry.scripts] in pyproject.toml"
	}
	if f := s.glob("__main__.py"); len(f) == 1 {
		return "python -m " + module(path.Dir(f[0])), f[0]
	}
	return "", ""
}
