package detect

import (
	"encoding/json"
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// pythonNeeds are distributions that are compiled against a library, or that run a
// program.
var pythonNeeds = map[string]needs{
	"psycopg2":        {build: "build-essential libpq-dev", run: "libpq5"},
	"psycopg":         {run: "libpq5"},
	"psycopg[c]":      {build: "build-essential libpq-dev"},
	"psycopg-c":       {build: "build-essential libpq-dev", run: "libpq5"},
	"mysqlclient":     {build: "build-essential pkg-config default-libmysqlclient-dev", run: "libmariadb3"},
	"pycairo":         {build: "build-essential pkg-config libcairo2-dev", run: "libcairo2"},
	"cairosvg":        {run: "libcairo2"},
	"pdf2image":       {run: "poppler-utils"},
	"pydub":           {run: "ffmpeg"},
	"ffmpeg-python":   {run: "ffmpeg"},
	"python-magic":    {run: "libmagic1"},
	"pytesseract":     {run: "tesseract-ocr"},
	"weasyprint":      {run: "libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"},
	"uwsgi":           {build: "build-essential"},
	"python-ldap":     {build: "build-essential libldap2-dev libsasl2-dev", run: "libldap-2.5-0 libsasl2-2"},
	"xmlsec":          {build: "build-essential pkg-config libxmlsec1-dev", run: "libxmlsec1-openssl"},
	"opencv-python":   {run: "libgl1 libglib2.0-0"},
	"pygraphviz":      {build: "build-essential libgraphviz-dev", run: "graphviz"},
	"graphviz":        {run: "graphviz"},
	"django-gdal":     {run: "gdal-bin"},
	"psycopg2cffi":    {build: "build-essential libpq-dev libffi-dev", run: "libpq5"},
	"python-snappy":   {build: "build-essential libsnappy-dev", run: "libsnappy1v5"},
	"confluent-kafka": {run: "librdkafka1"},
	"selenium":        {run: "chromium chromium-driver"},
	"pyaudio":         {build: "build-essential portaudio19-dev", run: "libportaudio2"},
	"pymssql":         {run: "libsybdb5"},
	"pyodbc":          {run: "unixodbc"},
	clones:            {build: "git ca-certificates"},
}

// clones is in the list of dependencies if one of them is cloned; no real name
// contains a blank.
const clones = "git repositories among the dependencies"

// distributions are what a tree depends on: names as in PEP 503, those of extras as
// name[extra], and the versions that are pinned.
type distributions struct {
	direct map[string]bool
	locked map[string]bool // everything in a lock file
	pinned map[string]string
}

// has reports whether the tree itself asks for a distribution.
func (d distributions) has(name string) bool { return d.direct[name] }

// any reports whether a distribution is installed, as far as the files say.
func (d distributions) any(name string) bool { return d.direct[name] || d.locked[name] }

var (
	requirement  = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?\s*(?:==\s*([0-9][0-9A-Za-z.]*))?`)
	lockName     = regexp.MustCompile(`^name = "([^"]+)"`)
	lockVersion  = regexp.MustCompile(`^version = "([^"]+)"`)
	condaPackage = regexp.MustCompile(`^(?:[\w-]+::)?([A-Za-z0-9][A-Za-z0-9._-]*)`)
)

// distribution is a name as in PEP 503.
func distribution(name string) string {
	return strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(name))
}

func (d distributions) add(text string) {
	m := requirement.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return
	}
	n := distribution(m[1])
	d.direct[n] = true
	for e := range strings.SplitSeq(m[2], ",") {
		if e = strings.TrimSpace(e); e != "" {
			d.direct[n+"["+strings.ToLower(e)+"]"] = true
		}
	}
	if m[3] != "" {
		d.pinned[n] = m[3]
	}
}

// addTable adds an entry of Poetry or Pipenv, whose value is a constraint or a table.
func (d distributions) addTable(name string, value any) {
	n := distribution(name)
	d.direct[n] = true
	constraint, _ := value.(string)
	if t, ok := value.(map[string]any); ok {
		constraint, _ = t["version"].(string)
		extras, _ := t["extras"].([]any)
		for _, e := range extras {
			if e, ok := e.(string); ok {
				d.direct[n+"["+strings.ToLower(e)+"]"] = true
			}
		}
	}
	if v := strings.TrimLeft(constraint, "= "); number.FindString(v) == v && v != "" && (strings.HasPrefix(constraint, "=") || strings.Count(v, ".") == 2) {
		d.pinned[n] = v
	}
}

// pythonDependencies reads them from the files that the installation uses.
func pythonDependencies(s *source, project pyproject, pip pipfile) distributions {
	d := distributions{map[string]bool{}, map[string]bool{}, map[string]string{}}
	var file func(name string, depth int)
	file = func(name string, depth int) {
		for l := range strings.SplitSeq(s.read(name), "\n") {
			d.direct[clones] = d.direct[clones] || gitRequirement.MatchString(l)
			if m := requirements.FindStringSubmatch(l); m != nil && depth < 5 {
				file(path.Join(path.Dir(name), m[1]), depth+1)
				continue
			}
			d.add(l)
		}
	}
	file("requirements.txt", 0)
	for _, l := range project.Project.Dependencies {
		d.add(l)
	}
	for n, v := range project.Tool.Poetry.Dependencies {
		d.addTable(n, v)
	}
	for n, v := range pip.Packages {
		d.addTable(n, v)
	}
	d.conda(s)
	for _, lock := range []string{"uv.lock", "poetry.lock", "pdm.lock"} {
		d.lock(s.above().read(lock))
	}
	d.pipenvLock(s)
	for _, lock := range []string{"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "Pipfile", "pyproject.toml"} {
		if gitRequirement.MatchString(s.above().read(lock)) {
			d.direct[clones] = true
		}
	}
	return d
}

// lock reads the packages of a lock file of uv, Poetry or PDM.
func (d distributions) lock(text string) {
	name := ""
	for l := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(l, "[") {
			name = ""
		}
		if m := lockName.FindStringSubmatch(l); m != nil {
			name = distribution(m[1])
			d.locked[name] = true
		}
		if m := lockVersion.FindStringSubmatch(l); m != nil && name != "" {
			d.pinned[name] = m[1]
		}
	}
}

func (d distributions) pipenvLock(s *source) {
	var lock struct {
		Default map[string]struct{ Version string }
	}
	if json.Unmarshal([]byte(s.read("Pipfile.lock")), &lock) != nil {
		return // pipenv reports it
	}
	for n, l := range lock.Default {
		d.locked[distribution(n)] = true
		if v := strings.TrimPrefix(l.Version, "=="); v != "" {
			d.pinned[distribution(n)] = v
		}
	}
}

// conda reads an environment of conda, with pip's part of it.
func (d distributions) conda(s *source) {
	var env struct{ Dependencies []any }
	if yaml.Unmarshal([]byte(s.read(s.first(condaFiles...))), &env) != nil {
		return // micromamba reports it
	}
	for _, l := range env.Dependencies {
		switch l := l.(type) {
		case string:
			if m := condaPackage.FindStringSubmatch(l); m != nil {
				d.direct[distribution(m[1])] = true
			}
		case map[string]any:
			list, _ := l["pip"].([]any)
			for _, r := range list {
				if r, ok := r.(string); ok {
					d.add(r)
				}
			}
		}
	}
}

var (
	requirements     = regexp.MustCompile(`^\s*(?:-r|--requirement)[\s=]*([^\s#]+)`)
	localRequirement = regexp.MustCompile(`(?m)^\s*(-e\s+|--editable[ =]\s*)?(\.|file:)|^\s*(-r|-c|-f|--requirement|--constraint|--find-links)[\s=\w]|@\s*file:`)
	// gitRequirement is a dependency that pip, uv, poetry or pipenv clones, in a
	// lock file or not.
	gitRequirement = regexp.MustCompile(`(?m)\bgit\+(https?|ssh|git|file):|source = \{ git = |^type = "git"|"git": "|\bgit\s*=\s*["']`)
)
