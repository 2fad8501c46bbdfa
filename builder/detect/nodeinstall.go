package detect

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// nodeJob is what the build stage of a Node tree does.
type nodeJob struct {
	manager
	command string // builds the program; empty: nothing is built
	keep    string // why the dependencies of the development stay; empty: they are removed
	extra   string // a package that the build needs, and that package.json lacks
	schema  string // Prisma's, which the install reads; empty: none

	generate  string // makes Prisma's client before the build; empty: something else does
	variables string // NAME=value that only the build command reads
}

// nodeInstall fills the build stage. The files that define the dependencies are
// copied first, so that they are only installed again when these have changed.
func nodeInstall(s *source, p *plan, j packageJSON, job nodeJob) {
	cache, mounts, exports := nodeMounts(s, job.manager)
	scripted := nodeScripted(j)
	if len(j.DevDependencies) == 0 {
		scripted = ""
	}
	install, prune := nodeSetUp(p, job, scripted)
	install = p.installs(install, job.why)
	whole := nodeWhole(j)
	if len(j.Workspaces) > 0 || len(s.workspaces(j)) > 0 {
		whole = "workspaces in package.json"
	}
	if whole != "" {
		p.found("copies everything before installing", whole)
		p.build = append(p.build, "COPY . .")
	} else {
		files := s.present(append([]string{"package.json", ".npmrc", "patches"}, job.files...)...)
		p.build = append(p.build, copies(append(files, prismaFiles(s, job.schema)...))...)
	}
	apart := whole == "" && nodeScripted(j) == "" && p.install.text == "" && cmp.Or(job.command, job.generate, job.extra) == ""
	if apart && len(j.Dependencies) == 0 {
		install = "mkdir -p node_modules && " + install // that may make none
	}
	p.build = append(p.build, "RUN "+cache+mounts+exports+install)
	if apart { // so that a push of an edit stores and copies nothing but the tree
		p.final = []string{"COPY --from=build --chown=%OWNER /app/node_modules /app/node_modules", "COPY --chown=%OWNER . ."}
		return
	}
	if whole == "" {
		p.build = append(p.build, "COPY . .")
	}
	p.build = append(p.build, job.steps(cache, mounts+exports)...)
	if prune != "" {
		p.build = append(p.build, "RUN "+cache+mounts+exports+prune)
	}
}

// nodeInstallWorkspace fills the build stage of a workspace member: it installs the
// workspace, builds what the member depends on, and then the member.
func nodeInstallWorkspace(s *source, p *plan, root packageJSON, members []nodeMember, job nodeJob) {
	before := buildOrder(members, s.at)
	cache, mounts, exports := nodeMounts(s.top, job.manager)
	whole, scripted := nodeWhole(root), nodeScripted(root)
	copied := copies(s.top.present(append([]string{"package.json", ".npmrc", "patches"}, job.files...)...))
	for _, member := range members {
		scripted = cmp.Or(scripted, nodeScripted(member.packageJSON))
		if why := nodeWhole(member.packageJSON); why != "" {
			whole = why + " of " + member.dir
		} else if len(member.Bin) > 0 { // linked when it is installed
			whole = "bin in package.json of " + member.dir
		} else if !plainPath.MatchString(member.dir) {
			whole = "the name of " + flat(member.dir)
		}
		copied = append(copied, fmt.Sprintf("COPY %s/package.json %s/", member.dir, member.dir))
	}
	if job.schema != "" {
		whole = cmp.Or(whole, "Prisma's schema")
	}
	if len(before) > 0 {
		scripted = cmp.Or(scripted, "scripts.build of a dependency")
	}
	install, prune := nodeSetUp(p, job, scripted)
	install = p.installs(install, job.why+" of the workspace")
	switch {
	case whole != "":
		p.found("copies everything before installing", whole)
		copied = []string{"COPY . ."}
	case len(members) > maxCopies:
		copied = []string{"COPY --from=manifests /app /app"}
		p.before = stage{name: "manifests", lines: []string{"COPY . .", manifestsOf(job.files)}}
	}
	p.build = append(append(p.build, copied...), "RUN "+cache+mounts+exports+install)
	if whole == "" {
		p.build = append(p.build, "COPY . .")
	}
	for _, b := range before {
		p.found("builds "+b.dir+" first", "scripts.build of a dependency")
		p.build = append(p.build, "WORKDIR /app/"+b.dir, "RUN "+withConfig+readConfig+job.name+" run build")
	}
	if steps := job.steps(cache, mounts+exports); len(steps) > 0 {
		p.build = append(append(p.build, "WORKDIR /app/"+s.at), steps...)
	}
	if prune != "" {
		p.build = append(p.build, "WORKDIR /app", "RUN "+cache+mounts+exports+prune)
	}
}

// steps are the instructions that build, once the dependencies are installed.
func (job nodeJob) steps(cache, env string) (list []string) {
	if job.extra != "" {
		list = append(list, "RUN "+cache+env+job.add+" "+job.extra)
	}
	if job.generate != "" {
		list = append(list, "RUN "+withConfig+readConfig+job.generate)
	}
	if job.command != "" {
		command := job.command
		if job.variables != "" {
			command = "export " + job.variables + " && " + command
		}
		list = append(list, "RUN "+withConfig+readConfig+command)
	}
	return list
}

// maxCopies is how many members of a workspace are copied one by one: an image has at
// most 127 layers.
const maxCopies = 40

// manifestsOf is the instruction that leaves only what defines the dependencies of a
// workspace.
func manifestsOf(files []string) string {
	keep := "! -name package.json ! -name .npmrc ! -path './patches/*'"
	for _, f := range files {
		if f == ".yarn" {
			keep += " ! -path './.yarn/*'"
		} else {
			keep += " ! -name " + f
		}
	}
	return "RUN find . -depth \\( -type f -o -type l \\) " + keep + " -delete -o -type d -empty -delete"
}

// nodeMounts are the options of an instruction that installs: the cache, and the
// config vars in the package manager's configuration.
func nodeMounts(s *source, m manager) (cache, mounts, exports string) {
	mounts, exports = secretsIn(s.read(".npmrc") + s.read(".yarnrc.yml"))
	return "--mount=type=cache,target=" + m.cache + " ", mounts, exports
}

// nodeScripted is the script of the project that runs when dependencies are installed,
// or empty. Such scripts use what only the development needs: tsc, husky.
func nodeScripted(j packageJSON) string {
	why := ""
	for _, script := range []string{"preinstall", "install", "postinstall", "prepare"} {
		if j.Scripts[script] != "" {
			why = "scripts." + script + " in package.json"
		}
	}
	return why
}

// treeless are install scripts that work before the tree is there: they set up git
// hooks, apply what was copied with package.json, or make types that the build makes
// again. Frameworks and tools write them into each new project.
var treeless = regexp.MustCompile(`^\s*(?:(?:npx |is-ci \|\| |node_modules/\.bin/)?(?:husky(?: install)?|lefthook install|simple-git-hooks|patch-package|prisma generate|nuxt prepare|nuxi prepare|svelte-kit sync \|\| echo ''|exit 0|true)(?: \|\| (?:true|exit 0|:|echo ''))?(?:\s*&&\s*|\s*$))+$`)

// nodeWhole is what requires the whole tree before anything is installed, or empty.
func nodeWhole(j packageJSON) (why string) {
	for _, script := range []string{"preinstall", "install", "postinstall", "prepare"} {
		if j.Scripts[script] != "" && !treeless.MatchString(j.Scripts[script]) {
			why = "scripts." + script + " in package.json"
		}
	}
	for _, n := range slices.Sorted(maps.Keys(j.Dependencies)) {
		if v := j.Dependencies[n]; strings.HasPrefix(v, "file:") || strings.HasPrefix(v, "link:") {
			why = n + " in package.json, which is in the repository"
		}
	}
	return why
}

// nodeSetUp adds the package manager to the build stage. It returns the command that
// installs, and the one that afterwards removes what only the build needs. scripted is
// what else needs the dependencies of the development meanwhile, or empty.
func nodeSetUp(p *plan, job nodeJob, scripted string) (install, prune string) {
	if job.setup != "" && !slices.Contains(p.base, "RUN "+job.setup) {
		p.build = append(p.build, "RUN "+job.setup)
	}
	if job.version.from != "" {
		p.found(job.name+" "+job.version.text, job.version.from)
	}
	if len(job.env) > 0 {
		p.build = append(p.build, "ENV "+strings.Join(job.env, " "))
	}
	install, prune = job.install, job.prune
	if p.install.text != "" {
		return install, "" // what that command installs is what is wanted
	}
	if job.keep != "" {
		return "NODE_ENV=development " + install, ""
	}
	if cmp.Or(job.command, scripted, job.generate, job.extra) != "" {
		return "NODE_ENV=development " + install, prune // otherwise build dependencies are left out
	}
	switch { // without a build, build dependencies are not installed at all
	case job.name == "npm":
		install += " --omit=dev"
	case job.name == "pnpm":
		install += " --prod"
	case job.name == "bun" || job.name == "yarn" && !job.berry:
		install += " --production"
	case job.berry && prune != "":
		install += " && " + prune
	}
	return install, ""
}

// copies are the instructions that copy files and folders to the same paths.
func copies(files []string) (list []string) {
	var plain []string
	for _, f := range files {
		if d, ok := strings.CutSuffix(f, "/"); ok {
			list = append(list, fmt.Sprintf("COPY %s %s", d, d))
		} else {
			plain = append(plain, f)
		}
	}
	if len(plain) > 0 {
		list = append([]string{"COPY " + strings.Join(plain, " ") + " ./"}, list...)
	}
	return list
}

// Patterns of git dependencies, in a package.json or a lock file.
var (
	gitDependency = regexp.MustCompile(`^(git[+:@]|ssh:|(github|gitlab|bitbucket|gist):|\w[\w.-]*/[\w.-]+(#|$)|https?://.*\.git(#|$))`)
	gitLocked     = regexp.MustCompile(`["'@ ]git(\+(https?|ssh)|)://|\btype: git\b`)
)

// nodeGit is what makes the installation need git, or empty.
func nodeGit(s *source, j packageJSON) string {
	for _, list := range []map[string]string{j.Dependencies, j.DevDependencies} {
		for _, n := range slices.Sorted(maps.Keys(list)) {
			if gitDependency.MatchString(list[n]) {
				return n + " in package.json comes from git"
			}
		}
	}
	for _, f := range []string{"package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock"} {
		for l := range strings.SplitSeq(s.above().read(f), "\n") {
			if !strings.Contains(l, `"url"`) && gitLocked.MatchString(l) { // a link for bug reports
				return f + " names a git repository"
			}
		}
	}
	return ""
}
