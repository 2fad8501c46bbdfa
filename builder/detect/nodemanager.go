package detect

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// manager installs the dependencies of a package.json.
type manager struct {
	name    string
	why     string
	version said     // what it is, and what asks for it; empty: the usual one
	setup   string   // installs it, if the image does not have it
	env     []string // NAME=value that it reads
	install string
	add     string // adds a dependency, which is not saved
	berry   bool   // yarn 2 or later
	config  string // the configuration that each of its commands reads; without the variables in it they fail
	prune   string // removes what only the build needed
	cache   string // the folder to cache
	files   []string
}

// nodeLocks are the lock files, and what reads them. The first that exists counts.
var nodeLocks = []struct{ file, manager string }{
	{"bun.lock", "bun"},
	{"bun.lockb", "bun"},
	{"pnpm-lock.yaml", "pnpm"},
	{"yarn.lock", "yarn"},
	{"package-lock.json", "npm"},
	{"npm-shrinkwrap.json", "npm"},
}

// packageManager chooses the package manager and its version: what the package.json
// names, or what reads the lock file. node is the version of Node.
func packageManager(s *source, p *plan, j packageJSON, node string) manager {
	name, why, lock := managerName(s, p, j)
	v := managerVersion(s, j, name)
	m := manager{}
	switch name {
	case "bun":
		m = bunManager(v, why, lock)
	case "pnpm":
		m = pnpmManager(s, v, why, lock)
	case "yarn":
		m = yarnManager(s, v, why)
	default:
		m = npmManager(v, why, lock, node)
	}
	if v.from != "" && m.setup != "" && m.version.from == "" {
		m.version = said{m.setup[strings.LastIndex(m.setup, "@")+1:], v.from}
	}
	return m
}

// managerName chooses the package manager, and its lock file, which may be missing.
func managerName(s *source, p *plan, j packageJSON) (name, why, lock string) {
	var locks []string
	of := map[string]string{}
	for _, l := range nodeLocks {
		if s.has(l.file) {
			locks = append(locks, l.file)
			of[l.file] = l.manager
		}
	}
	name, _, _ = strings.Cut(j.PackageManager, "@")
	why = "packageManager in package.json"
	if !slices.Contains([]string{"npm", "pnpm", "yarn", "bun"}, name) {
		name = ""
	}
	for _, t := range j.DevEngines.PackageManager {
		if name == "" && slices.Contains([]string{"npm", "pnpm", "yarn", "bun"}, t.Name) {
			name, why = t.Name, "devEngines.packageManager in package.json"
		}
	}
	if name == "" && len(locks) > 1 { // Only one of them is named in engines.
		var named []string
		for _, l := range locks {
			if j.Engines[of[l]] != "" && !slices.Contains(named, of[l]) {
				named = append(named, of[l])
			}
		}
		if len(named) == 1 {
			name, why = named[0], "engines."+named[0]+" in package.json"
		}
	}
	if name == "" && len(locks) > 0 {
		name, why = of[locks[0]], locks[0]
	}
	if name == "" {
		name, why = "npm", "no lock file"
		for _, n := range []string{"pnpm", "yarn", "bun"} { // the only one that has a version
			if v := managerVersion(s, j, n); v.from != "" && j.Engines["npm"] == "" {
				name, why = n, v.from
				break
			}
		}
	}
	var others []string
	for _, l := range locks {
		switch {
		case of[l] != name:
			others = append(others, l)
		case lock == "":
			lock = l
		}
	}
	if name == "npm" && lock != "" && len(locks) > 0 && why == "packageManager in package.json" {
		why = lock
	}
	if len(others) > 0 {
		p.found("ignores "+strings.Join(others, ", "), name+" does not read it; remove it, or name the package manager: packageManager in package.json")
	}
	return name, why, lock
}

// managerVersion is the version of a package manager that the tree asks for.
func managerVersion(s *source, j packageJSON, name string) said {
	named, version, _ := strings.Cut(j.PackageManager, "@")
	version, _, _ = strings.Cut(version, "+") // the hash that corepack checks
	if named != name || !plainWord.MatchString(version) {
		version = ""
	}
	v := firstSaid(
		said{version, "packageManager in package.json"}, said{j.DevEngines.PackageManager.version(name), "devEngines.packageManager in package.json"},
		said{j.Volta[name], "volta." + name + " in package.json"}, said{j.Engines[name], "engines." + name + " in package.json"},
	)
	if name == "bun" {
		v = firstSaid(v, said{s.line(".bun-version"), ".bun-version"})
	}
	return firstSaid(v, s.tool(name))
}

// chosen is the version to install: an exact one as it is, otherwise the first of known
// that is allowed.
func (v said) chosen(known ...string) string {
	if exactTool.MatchString(v.text) {
		return strings.TrimLeft(v.text, "=v ")
	}
	return choose(v.text, known...)
}

var exactTool = regexp.MustCompile(`^[=v\s]*\d+\.\d+\.\d+(-[A-Za-z0-9.]+)?$`)

func bunManager(v said, why, lock string) manager {
	m := manager{
		name: "bun", why: why, setup: bunSetup(v), install: "bun install", add: "bun add --no-save --dev", cache: "/root/.bun/install/cache",
		files: []string{"bun.lock", "bun.lockb", "bunfig.toml"},
	}
	if lock != "" {
		m.install += " --frozen-lockfile"
	}
	m.prune = "rm -rf node_modules && " + m.install + " --production" // bun has no command to remove packages
	return m
}

func bunSetup(v said) string { return "npm install --global bun@" + v.chosen("1") }

// pnpmByLock are the versions that read a lock file, by its version. The first is the
// one that wrote it, as far as that can be known.
var pnpmByLock = map[string][]string{
	"9.0": {"9", "10", "11", "12"},
	"6.1": {"8"},
	"6.0": {"8"},
	"5.4": {"7"},
	"5.3": {"6"},
	"5.2": {"5"},
	"5.1": {"5"},
}

func pnpmManager(s *source, v said, why, lock string) manager {
	m := manager{
		name: "pnpm", why: why, install: "pnpm install --store-dir=/root/.pnpm", add: "NODE_ENV=development pnpm add --save-dev --store-dir=/root/.pnpm",
		prune: "CI=true pnpm install --prod --ignore-scripts --store-dir=/root/.pnpm", cache: "/root/.pnpm",
		files: []string{"pnpm-lock.yaml", "pnpm-workspace.yaml", ".pnpmfile.cjs"},
	}
	known := []string{"10", "9", "11", "12"}
	if lock != "" {
		m.install += " --frozen-lockfile"
		m.prune += " --frozen-lockfile"
		version := number.FindString(lockfileVersion.FindString(s.read("pnpm-lock.yaml")))
		if by := pnpmByLock[version]; by != nil {
			known = by
		}
		if known[0] == "9" && pnpmTen(s) {
			known = []string{"10", "11", "12", "9"}
			if v.from == "" {
				m.version = said{"10", "pnpm-workspace.yaml, which pnpm 9 does not accept"}
			}
		}
	}
	if v.from != "" {
		known = append(slices.Clone(known), "12", "11", "10", "9", "8", "7", "6")
	}
	m.setup = "npm install --global pnpm@" + v.chosen(known...)
	return m
}

// pnpmTen reports whether a pnpm-workspace.yaml is of pnpm 10 or later, which keeps its
// settings there and needs no packages in it. pnpm 9 refuses a file without packages.
func pnpmTen(s *source) bool {
	text := s.read("pnpm-workspace.yaml")
	if text == "" {
		return false
	}
	var keys map[string]any
	if yaml.Unmarshal([]byte(text), &keys) != nil {
		return false // pnpm reports what is wrong with it
	}
	packages, _ := keys["packages"].([]any)
	delete(keys, "packages")
	delete(keys, "catalog")
	delete(keys, "catalogs")
	return len(packages) == 0 || len(keys) > 0
}

// yarnByLock are the versions that write a lock file, by the version in its __metadata.
var yarnByLock = map[string]string{"4": "2", "5": "3", "6": "3", "7": "4", "8": "4"}

func yarnManager(s *source, v said, why string) manager {
	m := manager{
		name: "yarn", why: why, install: "yarn install --frozen-lockfile", add: "NODE_ENV=development yarn add --dev --ignore-scripts",
		prune: "yarn install --production --ignore-scripts --prefer-offline --frozen-lockfile", cache: "/usr/local/share/.cache/yarn",
		files: []string{"yarn.lock"},
	}
	config := s.read(".yarnrc.yml")
	if f := yarnPath.FindStringSubmatch(config + "\n" + s.read(".yarnrc")); f != nil {
		v = said{f[1], "yarnPath"} // that one takes over
		m.version = v
	}
	wrote := ""
	if text := s.read("yarn.lock"); text != "" {
		wrote = "1"
		if f := yarnMetadata.FindStringSubmatch(text); f != nil {
			wrote = cmp.Or(yarnByLock[f[1]], "4")
		}
	} else if config != "" {
		wrote = "4"
	}
	version := v.chosen(cmp.Or(wrote, "1"), "4", "3", "2", "1")
	if lines(version, 1) == "1" {
		if version == "1" {
			version = "1.22.22" // the last
		}
		m.setup = "npm install --global --force yarn@" + version
		return m
	}
	// From npm's registry, like everything else: corepack would use another host.
	m.berry, m.config = true, config
	m.setup = "npm install --global --force @yarnpkg/cli-dist@" + version
	m.install, m.add, m.prune, m.cache = "yarn install --immutable", "yarn add --dev", "", "/root/.yarn/berry/cache"
	if atLeast(version, "4") {
		m.prune = "yarn workspaces focus --all --production" // for older ones it is a plugin
	}
	if !yarnLinker.MatchString(config) {
		// Without node_modules, yarn would have to start the program, from a
		// cache that is not in the image.
		m.env = append(m.env, "YARN_NODE_LINKER=node-modules")
	}
	if !s.dir(".yarn/cache") {
		m.env = append(m.env, "YARN_ENABLE_GLOBAL_CACHE=true") // otherwise the packages are in the image twice
	}
	m.files = append(m.files, ".yarnrc.yml", ".yarn")
	return m
}

var (
	yarnLinker      = regexp.MustCompile(`(?m)^nodeLinker:\s*["']?(node-modules|pnpm)`)
	yarnPath        = regexp.MustCompile(`(?m)^(?:yarnPath:|yarn-path)\s+["']?\S*/yarn-(\d+\.\d+\.\d+(?:-rc\.\d+)?)\.c?js`)
	yarnMetadata    = regexp.MustCompile(`(?m)^__metadata:\s*\n(?:\s+.*\n)*?\s+version: "?(\d+)`)
	lockfileVersion = regexp.MustCompile(`(?m)^lockfileVersion: ['"]?[0-9.]+`)
)

// npmOf are the versions of npm in the images of Node.
var npmOf = map[string]string{"14": "6", "16": "8", "18": "10", "20": "10", "22": "10", "24": "11", "25": "11", "26": "11"}

func npmManager(v said, why, lock, node string) manager {
	m := manager{
		name: "npm", why: why, install: "npm install", add: "npm install --no-save --include=dev --ignore-scripts", prune: "npm prune --omit=dev --ignore-scripts", cache: "/root/.npm",
		files: []string{"package-lock.json", "npm-shrinkwrap.json"},
	}
	if lock != "" {
		m.install, m.why = "npm ci", lock
	}
	// Only devEngines and engine-strict insist on a version, but a project that asks for
	// another line may need it.
	has := npmOf[lines(node, 1)]
	if want := v.chosen(cmp.Or(has, "11"), "11", "10", "9", "8", "7", "6"); v.from != "" && lines(want, 1) != has {
		m.setup = "npm install --global npm@" + want
	}
	return m
}
