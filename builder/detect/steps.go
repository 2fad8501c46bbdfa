package detect

import (
	"cmp"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"mesh"
)

// What the builds of compiled languages and site generators have in common.

// buildRun is the RUN with the command that was set, or the detected one. A command
// that was set gets all config vars; a compiler gets those that its command names, so
// that config:set does not compile everything again.
func (s *source) buildRun(p *plan, found, why string, caches ...string) string {
	mounts, exports := s.secrets(found)
	return "RUN " + cacheMounts(caches...) + mounts + exports + s.buildCommand(p, found, why)
}

// siteRun is the same for a step whose sources name config vars, as those of sites and
// front ends do.
func (s *source) siteRun(p *plan, found, why string, caches ...string) string {
	return "RUN " + cacheMounts(caches...) + withConfig + readConfig + s.buildCommand(p, found, why)
}

// cacheMounts are the options of a RUN that keeps folders from one build to the next.
func cacheMounts(dirs ...string) string {
	var b strings.Builder
	for _, d := range dirs {
		b.WriteString("--mount=type=cache,target=" + d + " ")
	}
	return b.String()
}

// copyAll copies the sources, unless that was done before.
func (p *plan) copyAll() {
	if !slices.Contains(p.build, "COPY . .") {
		p.build = append(p.build, "COPY . .")
	}
}

// debianNeeds installs Debian packages: run for the image, build for the build alone.
func (p *plan) debianNeeds(run, build string) {
	p.packages = append(p.packages, words(run)...)
	p.buildPackages = append(p.buildPackages, words(build)...)
}

// noDebian refuses Debian packages for a build in an image that has none.
func (s *source) noDebian(p *plan) error {
	if len(s.set.BuildPackages) == 0 {
		return nil
	}
	return mesh.Errorf(mesh.Invalid, "build-packages= is set, but %s is built in %s, which has no Debian packages", p.Language, p.buildImage).
		WithHint("clear it with: build:unset build-packages; or write a Dockerfile")
}

// group is what the first group that matches has found in a text, or empty.
func group(re *regexp.Regexp, text string) string {
	m := re.FindStringSubmatch(text)
	for i := 1; i < len(m); i++ {
		if m[i] != "" {
			return m[i]
		}
	}
	return ""
}

// all are the values of a pattern's first group.
func all(re *regexp.Regexp, text string) (list []string) {
	for _, m := range re.FindAllStringSubmatch(text, -1) {
		if !slices.Contains(list, m[1]) {
			list = append(list, m[1])
		}
	}
	return list
}

// webNames are what people call the program that serves, among several.
var webNames = []string{"web", "server", "app", "api", "main"}

// program chooses the one to start: the only one, the one with the project's name, or
// one with a usual name. It is empty if that is not clear.
func program(names []string, project string) string {
	if len(names) == 1 {
		return names[0]
	}
	for _, want := range append([]string{project}, webNames...) {
		for _, n := range names {
			if want != "" && strings.EqualFold(n, want) {
				return n
			}
		}
	}
	return ""
}

// severalPrograms refuses a tree with several programs, unless something else says
// what to start.
func (s *source) severalPrograms(p *plan, names []string, where string) error {
	if s.set.StartCommand != "" || s.has("Procfile") {
		return nil
	}
	return mesh.Errorf(mesh.Invalid, "this is %s, and %s has several programs: %s", p.Title(), where, flat(mesh.Clip(strings.Join(names, ", "), 200))).
		WithHint("name the one to start in a Procfile: web: %s, or set start-command=%s", names[0], names[0])
}

// files are those in a folder that match a pattern of path.Match, with plain names.
func (s *source) files(dir, pattern string) (list []string) {
	entries, err := fs.ReadDir(s.tree, dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if ok, _ := path.Match(pattern, e.Name()); ok && !e.IsDir() && plainPath.MatchString(name) {
			list = append(list, name)
		}
	}
	return list
}

// alsoIn copies the programs to a folder of the tree as well, if the start command
// looks there: a build on the person's own machine puts them there.
func (s *source) alsoIn(p *plan, from string, dirs ...string) {
	for _, d := range dirs {
		if regexp.MustCompile(`(^|[\s"'=])(\./)?` + regexp.QuoteMeta(d) + `/`).MatchString(s.started()) {
			p.found("copies the program to "+d+"/", "the start command looks there")
			p.final = append(p.final, "COPY --from=build --chown=%OWNER "+from+" /app/"+d+"/")
		}
	}
}

// started is what the person says about the start, for builds that keep more if a
// command names it.
func (s *source) started() string { return s.set.StartCommand + "\n" + s.read("Procfile") }

// javaWanted is the release of Java that a tree asks for, among those with images, or
// the first of them.
func (s *source) javaWanted(p *plan, known ...string) string {
	v := firstSaid(p.want, said{systemJava(s.read("system.properties")), "system.properties"}, said{s.line(".java-version"), ".java-version"}, said{s.line(".jdk-version"), ".jdk-version"}, numeric(s.tool("java")), said{known[0], "the default"})
	if !number.MatchString(v.text) { // "latest"
		v.text = known[len(known)-1]
	}
	// Images exist for the releases with long-term support; a newer one runs what is
	// built for an older one.
	wanted := lines(strings.TrimPrefix(v.text, "1."), 1)
	oldest := slices.Clone(known)
	slices.SortFunc(oldest, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	version := choose(">="+wanted, oldest...)
	if version != wanted {
		v.from += " says " + flat(mesh.Clip(v.text, 40))
	}
	p.found("Java "+version, v.from)
	return version
}

// systemJava is the release in the text of a system.properties, which Heroku reads. The
// last line counts.
func systemJava(text string) (release string) {
	for l := range strings.SplitSeq(text, "\n") {
		if v, ok := strings.CutPrefix(strings.ReplaceAll(l, " ", ""), "java.runtime.version="); ok {
			release = strings.TrimPrefix(v, "1.")
		}
	}
	return release
}

// javaRuntime is the image that runs a jar.
func (p *plan) javaRuntime(version string) {
	p.image, p.entrypoint = "eclipse-temurin:"+version+"-jre-jammy", true
}

const javaStart = "java " + javaMemory + " -jar app.jar"

// largestJar copies the largest jar below a folder: the one with the dependencies.
func largestJar(dir string) string {
	return "RUN cp \"$(find " + dir + " -name '*.jar' -not -name '*-sources.jar' -not -name '*-javadoc.jar' -exec ls -S {} + | head -1)\" /app.jar"
}

// jarFinal copies that jar into the image, or all build output if the start command
// names it.
func (s *source) jarFinal(p *plan, out string) {
	p.final = []string{"COPY --from=build --chown=%OWNER /app.jar /app/app.jar"}
	if strings.Contains(s.started(), out+"/") {
		p.found("keeps all build output", "the start command uses it")
		p.final = append([]string{"COPY --from=build --chown=%OWNER /app /app"}, p.final...)
	}
}

// nodeBeside is the instruction that adds Node to a build stage with glibc, for the
// package.json in a folder.
func (s *source) nodeBeside(p *plan, dir string) (string, error) {
	in := s.below(dir)
	var j packageJSON
	if err := in.json("package.json", &j); err != nil {
		return "", err
	}
	image, _, err := nodeCopied(in, p, j, "in "+dir+"/, Node")
	return image, err
}

// withNode adds Node and installs the packages of a folder's package.json, before the
// sources are copied. It returns the scripts there.
func (s *source) withNode(p *plan, dir string) (scripts map[string]string, err error) {
	in := s.below(dir)
	var j packageJSON
	if err := in.json("package.json", &j); err != nil {
		return nil, err
	}
	tools, m, err := nodeTools(in, p, j, "in "+dir+"/, Node")
	if err != nil {
		return nil, err
	}
	p.build = append(p.build, tools...)
	p.found(m.install+" in "+dir+"/", m.why)
	if !slices.Contains(p.build, "COPY . .") {
		var files []string
		for _, f := range in.present(append([]string{"package.json", ".npmrc"}, m.files...)...) {
			if !strings.HasSuffix(f, "/") {
				files = append(files, path.Join(dir, f))
			}
		}
		if nodeWhole(j) != "" && !strings.Contains(nodeWhole(j), "which is in the repository") || len(files) == 0 {
			p.build = append(p.build, "COPY "+dir+" "+dir)
		} else {
			p.build = append(p.build, "COPY "+strings.Join(files, " ")+" "+dir+"/")
		}
	}
	cache, mounts, exports := nodeMounts(in, m)
	p.build = append(p.build, "RUN "+cache+mounts+exports+"cd "+dir+" && "+m.install)
	return j.Scripts, nil
}
