package detect

import (
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"mesh"
)

// javaBuild is the project that is built and started: the tree itself, or the one in a
// build of several that makes a program.
type javaBuild struct {
	maven    bool
	file     string // the project's build file, below the root of the build
	text     string // and its text, without plugins that it leaves to others
	parent   string // the text of the root's build file, if that is another
	settings string // of Gradle
	at       string // the project's folder below the root of the build; empty: the root
	out      string // the folder that its build writes
}

var (
	gradleFiles    = words("build.gradle build.gradle.kts")
	gradleSettings = words("settings.gradle settings.gradle.kts")
	gradleInclude  = regexp.MustCompile(`(?m)^\s*include\b((?:[\s(,]*['"][^'"\n]+['"])+)`)
	gradleQuoted   = regexp.MustCompile(`['"]:?([^'"\n]+)['"]`)
	gradleOthers   = regexp.MustCompile(`(?m)^.*\bapply\s*\(?\s*false.*$`)
	mavenModule    = regexp.MustCompile(`<module>\s*([^<\s]+)\s*</module>`)
	xmlComment     = regexp.MustCompile(`(?s)<!--.*?-->`)

	gradleSpring = regexp.MustCompile(`alias\(\s*libs\.plugins\.[\w.]*spring[\w.]*boot`)
	// The plugins that make a program, by their own names or by those of a version
	// catalog, and those that gradle init writes into buildSrc.
	gradleProgram = regexp.MustCompile(`(?m)(?:\bid\s*\(?\s*|\bapply\s+plugin:\s*|\bapply\s*\(\s*plugin\s*=\s*)["'](?:application|war|org\.springframework\.boot|io\.ktor\.plugin|io\.quarkus|io\.micronaut[\w.]*application|com\.(?:github\.johnrengelman|gradleup)\.shadow|[\w.-]*application[\w-]*)["']` +
		`|\balias\(\s*libs\.plugins\.[\w.]*(?:application|spring[\w.]*boot|ktor|quarkus|micronaut|shadow)` + "|^\\s*(?:`?application`?\\s*$|application\\s*\\{|war\\s*$)")
	gradleApplication = regexp.MustCompile(`(?m)["'][\w.-]*application[\w-]*["']|^\s*(?:application\s*$|application\s*\{)|\balias\(\s*libs\.plugins\.[\w.]*(?:ktor|application)`)
	gradleFat         = regexp.MustCompile(`(?i)shadow|Main-Class|fatJar|spring[\w.-]*boot`)
	gradleWar         = regexp.MustCompile(`(?m)["']war["']|^\s*war\s*$`)
	mavenProgram      = regexp.MustCompile(`spring-boot-maven-plugin|maven-shade-plugin|maven-assembly-plugin|quarkus-maven-plugin|micronaut-maven-plugin|<mainClass>|<packaging>\s*war\s*<`)
	mavenWar          = regexp.MustCompile(`<packaging>\s*war\s*<`)
)

// javaProject finds the project. A folder that is built with root= may be part of the
// build above it, which has the settings, versions and plugins.
func javaProject(s *source, p *plan) (javaBuild, error) {
	if s.folder != "" && s.climb(func(top *source, at string) bool { return slices.Contains(javaModules(top), at) }) {
		p.found("part of a build", path.Join(s.top.folder, s.top.first(append([]string{"pom.xml"}, gradleSettings...)...))+" above it")
		return newJavaBuild(s.top, s.at), nil
	}
	b := newJavaBuild(s, "")
	modules := javaModules(s)
	if len(modules) == 0 || b.program() {
		return b, nil
	}
	var programs []string
	for _, m := range modules {
		if newJavaBuild(s, m).program() {
			programs = append(programs, m)
		}
	}
	if len(programs) == 0 { // the plugin may be in the root's build file, or in buildSrc
		for _, m := range modules {
			if hasMain(s, m) || len(modules) == 1 {
				programs = append(programs, m)
			}
		}
	}
	file := s.first(append([]string{"pom.xml"}, gradleSettings...)...)
	switch {
	case len(programs) == 1:
		p.found("builds "+programs[0]+"/", "the only program of "+file)
		return newJavaBuild(s, programs[0]), nil
	case len(programs) > 1:
		return b, mesh.Errorf(mesh.Invalid, "this is Java, and %s has several programs: %s", file, strings.Join(programs, ", ")).
			WithHint("choose one with: ssh mesh build:set -a STACK root=%s", programs[0])
	case b.file == "":
		return b, mesh.Errorf(mesh.Invalid, "this is Java, but none of the projects in %s makes a program: %s", file, strings.Join(modules, ", ")).
			WithHint("apply the application plugin in the one to start, or choose its folder with root=%s", modules[0])
	}
	return b, nil
}

var javaMain = regexp.MustCompile(`\bstatic\s+void\s+main\s*\(|(?m)^(?:suspend )?fun main\(`)

// hasMain reports whether the sources of a project have a main class.
func hasMain(s *source, at string) (has bool) {
	_ = fs.WalkDir(s.tree, path.Join(at, "src/main"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && (strings.HasSuffix(p, ".java") || strings.HasSuffix(p, ".kt")) && javaMain.MatchString(s.read(p)) {
			has = true
			return fs.SkipAll
		}
		return nil
	})
	return has
}

// newJavaBuild reads a project of the build whose root is top.
func newJavaBuild(top *source, at string) javaBuild {
	b := javaBuild{at: at, maven: top.has("pom.xml"), settings: top.read("settings.gradle") + top.read("settings.gradle.kts")}
	if b.maven {
		b.file, b.out = path.Join(at, "pom.xml"), path.Join(at, "target")
		b.text = xmlComment.ReplaceAllString(top.read(b.file), "")
		if at != "" {
			b.parent = xmlComment.ReplaceAllString(top.read("pom.xml"), "")
		}
		return b
	}
	b.out = path.Join(at, "build")
	for _, f := range gradleFiles {
		if top.has(path.Join(at, f)) {
			b.file = path.Join(at, f)
		}
		if at != "" {
			b.parent += top.read(f)
		}
	}
	b.text = gradleOthers.ReplaceAllString(top.read(b.file), "")
	return b
}

// program reports whether a project makes something that can be started.
func (b javaBuild) program() bool {
	if b.maven {
		return mavenProgram.MatchString(b.text) && !strings.Contains(strings.ReplaceAll(b.text, " ", ""), "<packaging>pom<")
	}
	return gradleProgram.MatchString(b.text)
}

func (b javaBuild) war() bool {
	if b.maven {
		return mavenWar.MatchString(b.text)
	}
	return gradleWar.MatchString(b.text)
}

// distributes reports whether the program is made by Gradle's application plugin: its
// jar has no dependencies in it and no main class, and installDist puts it beside them.
func (b javaBuild) distributes(started string) bool {
	return !b.maven && (gradleApplication.MatchString(b.text) && !gradleFat.MatchString(b.text) || strings.Contains(started, "build/install/"))
}

func (b javaBuild) mavenCommand() string {
	if b.at != "" {
		return "mvn --batch-mode -DskipTests --projects " + b.at + " --also-make package"
	}
	return "mvn --batch-mode -DskipTests package"
}

var gradleStage = regexp.MustCompile(`\btask\s+stage\b|register\(\s*["']stage["']`)

// gradleCommand builds with the task stage if there is one and a Procfile, as on Heroku
// (https://devcenter.heroku.com/articles/deploying-gradle-apps-on-heroku).
func (b javaBuild) gradleCommand(started string) string {
	task := "assemble"
	switch {
	case strings.TrimSpace(started) != "" && gradleStage.MatchString(b.text):
		task = "stage"
	case b.distributes(started):
		task = "installDist"
	}
	if b.at != "" {
		task = ":" + strings.ReplaceAll(b.at, "/", ":") + ":" + task
	}
	return "gradle --no-daemon " + task
}

// javaModules are the folders of the projects that a build consists of.
func javaModules(s *source) (dirs []string) {
	add := func(dir string) {
		if dir = path.Clean(dir); dir != "." && plainPath.MatchString(dir) && !strings.HasPrefix(dir, "..") && !slices.Contains(dirs, dir) && s.dir(dir) {
			dirs = append(dirs, dir)
		}
	}
	if s.has("pom.xml") {
		for _, m := range mavenModule.FindAllStringSubmatch(xmlComment.ReplaceAllString(s.read("pom.xml"), ""), -1) {
			add(m[1])
		}
		return dirs
	}
	for _, m := range gradleInclude.FindAllStringSubmatch(s.read("settings.gradle")+"\n"+s.read("settings.gradle.kts"), -1) {
		for _, q := range gradleQuoted.FindAllStringSubmatch(m[1], -1) {
			add(strings.ReplaceAll(q[1], ":", "/"))
		}
	}
	return dirs
}
