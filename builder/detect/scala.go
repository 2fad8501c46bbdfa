package detect

import (
	"regexp"
	"strings"

	"mesh"
)

var (
	sbtVersion   = regexp.MustCompile(`(?m)^\s*sbt\.version\s*=\s*(\d[\w.-]*)`)
	sbtPlay      = regexp.MustCompile(`"(?:com\.typesafe\.play|org\.playframework)"\s*%\s*"sbt-plugin"`)
	sbtPackager  = regexp.MustCompile(`%\s*"sbt-native-packager"`)
	hoconComment = regexp.MustCompile(`(?m)^\s*(#|//).*$`)
	sbtAssembly  = regexp.MustCompile(`%\s*"sbt-assembly"`)
)

// scalaSign prefers sbt to a build of Java beside it only if sbt packages a program.
func scalaSign(s *source) string {
	if !s.has("build.sbt") {
		return ""
	}
	plugins := s.sbtPlugins()
	if s.first("pom.xml", "build.gradle", "build.gradle.kts") != "" && !sbtPlay.MatchString(plugins) && !sbtPackager.MatchString(plugins) && !sbtAssembly.MatchString(plugins) {
		return ""
	}
	return "build.sbt"
}

// sbtPlugins are the files that name sbt's plugins.
func (s *source) sbtPlugins() (text string) {
	for _, f := range append(s.files("project", "*.sbt"), s.files("project", "*.scala")...) {
		text += s.read(f) + "\n"
	}
	return text
}

// scala builds what a plugin of sbt packages: a folder with a start script, or one jar.
// The image has sbt's launcher, which fetches the version in project/build.properties
// (https://github.com/sbt/docker-sbt, "light images").
func scala(s *source, p *plan) error {
	plugins := s.sbtPlugins()
	text := s.read("build.sbt")
	play := sbtPlay.MatchString(plugins)
	switch {
	case play:
		p.Framework = "Play"
	case strings.Contains(text, "akka-http"):
		p.Framework = "Akka HTTP"
	case strings.Contains(text, "http4s"):
		p.Framework = "http4s"
	}
	// 17 runs every sbt from 1.5.5 on, and Scala's older compilers; light images begin
	// with it.
	version := s.javaWanted(p, "17", "21", "25")
	line := "1.x"
	if v := group(sbtVersion, s.read("project/build.properties")); v != "" {
		p.found("sbt "+v, "project/build.properties")
		if atLeast(v, "2.0") {
			line = "2.x"
		}
	}
	p.buildImage = "sbtscala/scala-sbt:eclipse-temurin-" + version + "_" + line
	p.javaRuntime(version)
	caches := []string{"/root/.sbt", "/root/.ivy2", "/root/.cache/coursier"}
	// What project/ and build.sbt name is fetched before the sources are copied.
	p.build = append(p.build, copies(s.present("build.sbt", "version.sbt", ".jvmopts", ".sbtopts", "project"))...)
	p.build = append(p.build, "RUN "+cacheMounts(caches...)+"sbt update", "COPY . .")
	switch {
	case play || sbtPackager.MatchString(plugins):
		p.build = append(p.build, s.buildRun(p, "sbt stage", "sbt-native-packager in project/", caches...))
		// Its script is called after the project, or as executableScriptName says.
		p.build = append(p.build, "RUN cp -r \"$(find . -path '*/target/universal/stage' -type d | head -1)\" /out && cd /out/bin && ln -sf \"$(ls | grep -v '[.]bat$' | head -1)\" start")
		p.final = []string{"COPY --from=build --chown=%OWNER /out /app"}
		if strings.Contains(s.started(), "target/") {
			p.found("keeps all build output", "the start command uses it")
			p.final = append([]string{"COPY --from=build --chown=%OWNER /app /app"}, p.final...)
		}
		start := "bin/start"
		if play {
			start = "bin/start -Dhttp.port=$PORT -Dpidfile.path=/dev/null"
			p.found("reads APPLICATION_SECRET", "config:set APPLICATION_SECRET=… (32 random characters), for play.http.secret.key")
			conf := hoconComment.ReplaceAllString(s.read("conf/application.conf"), "")
			if !strings.Contains(conf, "secret") {
				start += " -Dplay.http.secret.key=\"$APPLICATION_SECRET\""
			}
			if !strings.Contains(conf, "hosts") { // Play refuses all but localhost; the router checks the host
				start += " -Dplay.filters.hosts.allowed.0=."
				p.found("allows every host", "no play.filters.hosts in conf/application.conf; mesh checks the host")
			}
		}
		return s.start(p, start, "the script of sbt stage", "project")
	case sbtAssembly.MatchString(plugins):
		p.build = append(p.build, s.buildRun(p, "sbt assembly", "sbt-assembly in project/", caches...), largestJar(". -not -path './project/*'"))
		s.jarFinal(p, "target")
		return s.start(p, javaStart, "the jar of sbt assembly", "project")
	case s.set.BuildCommand != "":
		p.build = append(p.build, s.buildRun(p, "", "", caches...))
		p.final = []string{"COPY --from=build --chown=%OWNER /app /app"}
		return s.start(p, "", "", "program that build-command makes")
	}
	return mesh.Errorf(mesh.Invalid, "this is %s, but no plugin in project/ packages a program", p.Title()).
		WithHint(`put addSbtPlugin("com.github.sbt" %% "sbt-native-packager" %% "1.11.1") into project/plugins.sbt, and enablePlugins(JavaAppPackaging) into build.sbt`)
}
