package detect

import (
	"regexp"
	"slices"
	"strings"
)

// Dependencies in the tree itself, as lock files list them.
var (
	uvLocal     = regexp.MustCompile(`source = \{ (directory|editable|virtual|path) = "[^."]`)
	poetryLocal = regexp.MustCompile(`(?m)^type = "(directory|file)"`)
	pdmLocal    = regexp.MustCompile(`(?m)^path = "`)
	pipenvLocal = regexp.MustCompile(`"(path|file)":\s*"[^"]`)
)

var condaFiles = words("environment.yml environment.yaml")

// pythonFiles say what to install. The first one counts, as with other platforms.
var pythonFiles = append(words("uv.lock poetry.lock pdm.lock Pipfile.lock requirements.txt Pipfile"), condaFiles...)

const pythonCache = "RUN --mount=type=cache,target=/root/.cache "

// pythonInstall fills the build stage: an environment in /venv with the project's
// dependencies. It returns the instructions that install the project itself, if they
// are left out.
func pythonInstall(s *source, p *plan, project pyproject) (again []string) {
	whole := func(install string) []string {
		if !slices.Contains(p.build, "COPY . .") {
			again = append(again, "COPY . .")
		}
		return append(again, install)
	}
	cache := pythonCache
	p.build = []string{"RUN python -m venv /venv"}
	copied := func(lock string, local *regexp.Regexp, files string) string {
		if local.MatchString(s.read(lock)) {
			p.found("copies everything before installing", "paths in "+lock)
			return "COPY . ."
		}
		return "COPY " + files + " ./"
	}
	if p.install.text != "" { // in the environment, with all that the tree has
		p.build = append(p.build, "COPY . .", cache+"export VIRTUAL_ENV=/venv PATH=/venv/bin:$PATH && "+p.installs("", ""))
		return nil
	}
	from := s.first(pythonFiles...)
	if others := s.presentFiles(pythonFiles...); len(others) > 1 {
		others = slices.DeleteFunc(others[1:], func(f string) bool { return f == "Pipfile" && from == "Pipfile.lock" })
		if len(others) > 0 {
			defer func() { p.found("ignores "+strings.Join(others, ", "), from+" counts") }()
		}
	}
	switch from {
	case "uv.lock":
		p.found("uv sync", "uv.lock")
		sync := cache + "UV_PROJECT_ENVIRONMENT=/venv UV_LINK_MODE=copy uv sync " + uvChecks(project) + " --no-dev --python \"$(command -v python3)\""
		p.build = []string{cache + "pip install uv", copied("uv.lock", uvLocal, "pyproject.toml uv.lock"), sync + " --no-install-project"}
		// In both, installed as for development: files that the program reads are
		// beside its code.
		return whole(sync)
	case "poetry.lock":
		p.found("poetry install", "poetry.lock")
		// Before the environment exists, so that poetry is not in it and not in the
		// image.
		p.build = append([]string{cache + "pip install poetry"}, append(p.build, copied("poetry.lock", poetryLocal, "pyproject.toml poetry.lock"), cache+"VIRTUAL_ENV=/venv poetry install --only main --no-root --no-interaction")...)
		return whole(cache + "VIRTUAL_ENV=/venv poetry install --only-root --no-interaction")
	case "pdm.lock":
		p.found("pdm sync --prod", "pdm.lock")
		p.build = append([]string{cache + "pip install pdm"}, append(p.build, copied("pdm.lock", pdmLocal, "pyproject.toml pdm.lock"), cache+"VIRTUAL_ENV=/venv PDM_CHECK_UPDATE=false pdm sync --prod --no-self")...)
		return whole(cache + "VIRTUAL_ENV=/venv PDM_CHECK_UPDATE=false pdm sync --prod")
	case "Pipfile.lock":
		p.found("pipenv sync", "Pipfile.lock")
		p.build = append([]string{cache + "pip install pipenv"}, append(p.build, copied("Pipfile.lock", pipenvLocal, "Pipfile Pipfile.lock"), cache+"VIRTUAL_ENV=/venv PIPENV_VERBOSITY=-1 pipenv sync")...)
	case "requirements.txt":
		p.found("pip install -r requirements.txt", "requirements.txt")
		if localRequirement.MatchString(s.read("requirements.txt")) {
			p.found("copies everything before installing", "paths in requirements.txt")
			p.build = append(p.build, "COPY . .")
		} else {
			p.build = append(p.build, "COPY requirements.txt ./")
		}
		p.build = append(p.build, cache+"pip install -r requirements.txt")
		return whole(cache + "pip install --no-deps .")
	case "Pipfile":
		p.found("pipenv install", "Pipfile, no lock file")
		p.build = append([]string{cache + "pip install pipenv"}, append(p.build, "COPY Pipfile ./", cache+"VIRTUAL_ENV=/venv PIPENV_VERBOSITY=-1 pipenv install --skip-lock")...)
	case "environment.yml", "environment.yaml":
		condaInstall(s, p, from)
	default:
		pipInstall(s, p, project)
	}
	return nil
}

// listRequirements writes the dependencies in a pyproject.toml as requirements. Pythons
// before 3.11 cannot read TOML, but pip brings a module for it.
const listRequirements = `python -c "exec('try: import tomllib\nexcept ImportError: from pip._vendor import tomli as tomllib'); print(*tomllib.load(open('pyproject.toml', 'rb'))['project'].get('dependencies', []), sep='\n')" >/tmp/requirements.txt`

// pipInstall installs what pyproject.toml or setup.py describe. A pyproject.toml without
// a name or a build system describes no package, only dependencies
// (https://docs.astral.sh/uv/concepts/projects/config/#build-systems): pip would refuse
// it, or guess which of its folders to install.
func pipInstall(s *source, p *plan, project pyproject) {
	described := strings.Contains(s.read("pyproject.toml"), "[project]")
	bare := described && !s.has("setup.py") && (project.Project.Name == "" || len(project.BuildSystem.Requires) == 0 && len(project.Project.Scripts) == 0)
	local := slices.ContainsFunc(project.Project.Dependencies, func(d string) bool { return strings.Contains(d, "file:") })
	switch {
	case bare && len(project.Project.Dependencies) > 0 && !local:
		p.found("pip install", "the dependencies in pyproject.toml, which describes no package")
		p.build = append(p.build, "COPY pyproject.toml ./", pythonCache+listRequirements+" && pip install -r /tmp/requirements.txt")
	case bare && !local:
		p.found("installs nothing", "no dependencies in pyproject.toml")
		p.build, p.env = nil, p.env[:3]
	case described, s.has("setup.py"):
		p.found("pip install .", s.first("pyproject.toml", "setup.py"))
		p.build = append(p.build, "COPY . .", pythonCache+"pip install .")
	default:
		p.found("installs nothing", "no requirements.txt")
		p.build, p.env = nil, p.env[:3]
	}
}

// condaInstall makes the environment with micromamba, from its own image. The image of
// the program is Debian's: conda brings its own Python, and finds it at the same path.
func condaInstall(s *source, p *plan, file string) {
	p.found("micromamba create", file)
	p.buildImage, p.image = "mambaorg/micromamba:latest", "debian:bookworm-slim"
	p.build = []string{"USER root"}
	if localRequirement.MatchString(strings.ReplaceAll(s.read(file), "- ", "")) {
		p.found("copies everything before installing", "paths in "+file)
		p.build = append(p.build, "COPY . .")
	} else {
		p.build = append(p.build, "COPY "+file+" ./")
	}
	p.build = append(p.build, "RUN --mount=type=cache,target=/opt/conda/pkgs --mount=type=cache,target=/root/.cache micromamba create --yes --always-copy --prefix /venv --file "+file)
}

// uvChecks is the option with which uv reports a lock file that is out of step. What the
// project's own build decides cannot be compared before its sources are there.
func uvChecks(project pyproject) string {
	if len(project.Project.Dynamic) > 0 {
		return "--frozen"
	}
	return "--locked"
}
