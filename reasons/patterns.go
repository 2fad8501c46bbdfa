package reasons

import (
	"regexp"
	"strings"
)

// pattern recognizes a line. Groups of it can be used in the hint, as in
// regexp.Expand.
type pattern struct {
	has  []string // one of them is in the line; regular expressions alone would take 60 µs a line
	line *regexp.Regexp
	more *regexp.Regexp // further lines that belong to it; nil: none
	hint string
}

func p(has, line, more, hint string) pattern {
	out := pattern{has: strings.Split(has, "|"), line: regexp.MustCompile(line), hint: hint}
	if more != "" {
		out.more = regexp.MustCompile(more)
	}
	return out
}

// patterns are what tools print, as their sources and trials show it. The first that
// matches any line counts, so those that explain others come first, and those that match
// any error last.
var patterns = []pattern{
	// Lock files that are out of step.
	p("can only install packages", "npm (?:error|ERR!) .npm ci. can only install packages when your package\\.json and package-lock\\.json",
		`^npm (?:error|ERR!) (?:Missing|Invalid): `, "bring the lock file up to date: run npm install, and commit package-lock.json"),
	p("ERR_PNPM_OUTDATED_LOCKFILE", `ERR_PNPM_OUTDATED_LOCKFILE`, `specifiers|^\s+\*`, "bring the lock file up to date: run pnpm install, and commit pnpm-lock.yaml"),
	p("Your lockfile needs", "^error Your lockfile needs to be updated", "", "bring the lock file up to date: run yarn install, and commit yarn.lock"),
	p("YN0028", `YN0028:.*lockfile would have been modified`, "", "bring the lock file up to date: run yarn install, and commit yarn.lock"),
	p("lockfile had changes", `^error: lockfile had changes, but lockfile is frozen`, "", "bring the lock file up to date: run bun install, and commit bun.lock"),
	p("lockfile is out of date", `lockfile is out of date`, "", "bring the lock file up to date: run deno install, and commit deno.lock"),
	p("only supports platforms", `^Your bundle only supports platforms`, `^Add the current platform`, "add the server's platform: run bundle lock --add-platform x86_64-linux, and commit Gemfile.lock"),
	p("emfile|gemspecs|frozen mode", `(?i)(?:in your gemfile changed|gemspecs for path gems changed|install in deployment mode after changing|frozen mode is set)`, `^\* `, "bring the lock file up to date: run bundle install, and commit Gemfile.lock"),
	p("pyproject.toml changed", `pyproject\.toml changed significantly since poetry\.lock was last generated`, "", "bring the lock file up to date: run poetry lock, and commit poetry.lock"),
	p("uv.lock", "The lockfile at `uv\\.lock` needs to be updated|Unable to find lockfile at `uv\\.lock`", "", "bring the lock file up to date: run uv lock, and commit uv.lock"),
	p("Pipfile.lock", `Your Pipfile\.lock .*out of date|Pipfile\.lock is out of date`, "", "bring the lock file up to date: run pipenv lock, and commit Pipfile.lock"),
	p("ock file hash|pdm lock", `(?i)Lock file hash doesn't match|pdm lock.*out of date`, "", "bring the lock file up to date: run pdm lock, and commit pdm.lock"),
	p("lock file", `(?i)is not present in the lock file|lock file does not contain a compatible set of packages|The lock file is not up to date`, `^\s+- `, "bring the lock file up to date: run composer update, and commit composer.lock"),
	p("needs to be updated", `lock file .* needs to be updated but --(?:locked|frozen) was passed`, "", "bring the lock file up to date: run cargo build, and commit Cargo.lock"),
	p("missing go.sum entry", `missing go\.sum entry`, "", "bring go.sum up to date: run go mod tidy, and commit go.mod and go.sum"),
	p("go: ", `^go: (?:updates to go\.mod needed|inconsistent vendoring)`, `^\t`, "run go mod tidy (and go mod vendor, if there is a vendor folder), and commit the result"),
	p("mix.lock|ock mismatch|lock file is out", `(?i)the lock file is out of date|mix\.lock.*out of date|lock mismatch`, "", "bring the lock file up to date: run mix deps.get, and commit mix.lock"),

	// Versions that do not fit.
	p("The engine", `error .*The engine "(\w+)" is incompatible with this module\. Expected version "([^"]*)"`, "", "ask for a $1 that fits in engines of package.json"),
	p("ERR_PNPM_UNSUPPORTED_ENGINE", `ERR_PNPM_UNSUPPORTED_ENGINE`, `Expected version|^Got:|Your (?:Node|pnpm) version`, "ask for versions that fit in engines of package.json"),
	p("EBAD", `npm (?:error|ERR!) code (?:EBADENGINE|EBADDEVENGINES)`, `npm (?:error|ERR!) (?:engine|notsup|EBADDEVENGINES|Not compatible|Required|Actual|Invalid)`, "ask for versions that fit in engines or devEngines of package.json"),
	p("ERESOLVE", `npm (?:error|ERR!) code ERESOLVE`, `npm (?:error|ERR!) (?:ERESOLVE|While resolving|Found|Could not resolve|peer|Conflicting)`, "dependencies contradict each other: change a version, or write legacy-peer-deps=true into .npmrc"),
	p("code E", `npm (?:error|ERR!) code (?:E404|ETARGET)`, `npm (?:error|ERR!) (?:404 |notarget )`, "correct the name or version in package.json; a private registry belongs into .npmrc"),
	p("go.mod requires go", `^go: .*go\.mod requires go >= (\S+)`, "", "the builder's Go is too old for go.mod: ask for Go $1 or less there"),
	p("ERROR: ", `^ERROR: (?:Could not find a version that satisfies the requirement|No matching distribution found for) ([^\s(]+)`, "", "no release of $1 fits this version of Python: change one of the two (.python-version)"),
	p("Could not find gem", `^Could not find gem '([^']+)'`, "", "correct the gem or its source in the Gemfile"),

	// Settings and secrets that are missing.
	p("secret_key_base", "Missing `secret_key_base` for 'production'", "", `set the secret, made with openssl rand -hex 64: ssh mesh config:set SECRET_KEY_BASE=…`),
	p("ncryption", `(?:Missing encryption key to decrypt file with|ActiveSupport::MessageEncryptor::InvalidMessage)`, "", `set the key in config/master.key: ssh mesh config:set RAILS_MASTER_KEY=…`),
	p("SECRET_KEY", `(?:The SECRET_KEY setting must not be empty|KeyError: '(?:DJANGO_)?SECRET_KEY')`, "", `set the secret under the name that the settings read, made with openssl rand -hex 32: ssh mesh config:set SECRET_KEY=…`),
	p("No application encryption key", `No application encryption key has been specified`, "", `set the key, made with php artisan key:generate --show: ssh mesh config:set APP_KEY=…`),
	p("SECRET_KEY_BASE is missing", `environment variable SECRET_KEY_BASE is missing`, "", `set the secret, made with openssl rand -hex 64: ssh mesh config:set SECRET_KEY_BASE=…`),
	p("Invalid HTTP_HOST", `Invalid HTTP_HOST header: '([^']+)'`, "", `add the host to ALLOWED_HOSTS of Django's settings`),
	p("nvironment variable", `(?:PrismaConfigEnvError: Missing required environment variable|Environment variable not found): (\w+)`, "", `set it: ssh mesh config:set $1=…`),
	p("KeyError", `KeyError: '([A-Z][A-Z0-9_]{2,})'`, "", `set the config var, if that is one: ssh mesh config:set $1=…`),
	p("key not found", `key not found: "([A-Z][A-Z0-9_]{2,})" \(KeyError\)`, "", `set the config var: ssh mesh config:set $1=…`),
	p("does not exist|doesn't exist|no such table", `(?:relation|table|Table) ["'`+"`"+`]?([\w.]+)["'`+"`"+`]? does(?:n't| not) exist|no such table: ([\w.]+)`, "", `create the tables before a release starts, with a release command in the Procfile, for example: release: bundle exec rails db:migrate`),

	// What the build lacks.
	p("ERR_OSSL_EVP|digital envelope", `ERR_OSSL_EVP_UNSUPPORTED|error:0308010C:digital envelope routines::unsupported`, "", "webpack 4 does not run on this Node: write 16 into .node-version, or: ssh mesh config:set NODE_OPTIONS=--openssl-legacy-provider"),
	p("heap out of memory", `JavaScript heap out of memory`, "", "allow Node more memory: ssh mesh config:set NODE_OPTIONS=--max-old-space-size=4096"),
	p("fatal error: ", `(?:^|: )fatal error: '?(\S+\.h)'?(?:: No such file or directory| file not found)`, "", "install the Debian package that has $1: ssh mesh build:set build-packages=…"),
	p("pg_config", `pg_config executable not found`, "", "install PostgreSQL's headers: ssh mesh build:set build-packages=libpq-dev,build-essential"),
	p("mysql_config|pkg-config", `mysql_config: not found|Can not find valid pkg-config name`, "", "install MySQL's headers: ssh mesh build:set build-packages=default-libmysqlclient-dev,build-essential,pkg-config"),
	p("error: command|error: linker|unable to execute", `error: command '[^']*(?:gcc|cc|g\+\+|clang)' failed|error: linker .cc. not found|unable to execute '(?:gcc|cc)'`, "", "install a compiler: ssh mesh build:set build-packages=build-essential"),
	p("An error occurred", `^An error occurred while installing (\S+)`, "", "install what $1 is compiled against: ssh mesh build:set build-packages=…"),
	p("ext-", `requires (?:PHP extension )?(ext-[\w-]+)`, "", `add the extension to composer.json: composer require '$1:*'`),
	p("Module not found|ould not resolve|annot find module|ailed to resolve", `(?:Module not found: Error: Can't resolve|Could not resolve|Cannot find module|Failed to resolve import) ["']([^"']+)["']`, "", "add $1 to the dependencies; if it is a file: Linux distinguishes capital letters in its name"),
	p("ModuleNotFoundError", `ModuleNotFoundError: No module named '([^']+)'`, "", "add the package that has $1 to the dependencies"),
	p("cannot load such file", `cannot load such file -- (\S+)`, "", "add the gem that has $1 to the Gemfile"),

	// Compilers.
	p("error TS", `\berror TS\d+: `, `\berror TS\d+: `, ""),
	p(".go:", `^\S+\.go:\d+:\d+: `, `^\S+\.go:\d+:\d+: `, ""),
	p("error", `^error(?:\[E\d+\])?: `, `^\s+--> `, ""),
	p("[ERROR]", `^\[ERROR\] .*(?:COMPILATION ERROR|\.(?:java|kt):\[)`, `^\[ERROR\] .*\.(?:java|kt):\[`, ""),
	p("What went wrong", `^\* What went wrong:`, `^(?:Execution failed|> |A problem|Could not)`, ""),
	p(": error ", `: error [A-Z]{2,4}\d+: `, `: error [A-Z]{2,4}\d+: `, ""),
	p("** (", `^\*\* \(\w+(?:\.\w+)*\) `, "", ""),
	p("== Compilation error", `^== Compilation error in file`, `^\*\* \(`, ""),
	p("error: ", `^\S+:\d+:\d+: (?:fatal )?error: `, `: (?:fatal )?error: `, ""),

	// Any other.
	p("ERR_PNPM_", `ERR_PNPM_[A-Z_]+`, "", ""),
	p("npm error code|npm ERR! code|rror: |ERROR: |fatal: |FATAL: ", `^(?:npm (?:error|ERR!) code|error: |Error: |ERROR: |fatal: |FATAL: )`, "", ""),
}
