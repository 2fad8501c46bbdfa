package detect

import (
	"cmp"
	"path"
	"regexp"
	"strings"

	"mesh"
)

var javaRelease = regexp.MustCompile(`<(?:java\.version|maven\.compiler\.release|maven\.compiler\.target|release)>\s*(?:1\.)?(\d+)\s*<|languageVersion[^\n]*?\b(?:of\(\s*)?(\d+)\)|\bjvmToolchain\(\s*(\d+)\s*\)|sourceCompatibility\s*=\s*['"]?(?:JavaVersion\.VERSION_)?(?:1\.)?(\d+)`)

// java builds one program, of Maven or Gradle, in an image without a compiler.
func java(s *source, p *plan) error {
	b, err := javaProject(s, p)
	if err != nil {
		return err
	}
	version, gradle, err := javaVersion(s, p, b)
	if err != nil {
		return err
	}
	p.javaRuntime(version)
	p.Framework = b.framework()
	started := s.started()
	cache, command := "/root/.m2", b.mavenCommand()
	p.buildImage = "maven:3-eclipse-temurin-" + version
	if !b.maven {
		cache, command = "/home/gradle/.gradle", b.gradleCommand(started)
		p.buildImage = "gradle:" + gradle + "-jdk" + version
	}
	p.build = []string{"COPY . .", s.buildRun(p, command, b.file, cache)}
	start, why := b.pack(p, started, version)
	if strings.Contains(started, b.out+"/") || strings.Contains(started, "build/") || strings.Contains(started, "target/") {
		// Commands that name build output find it where the build put it.
		p.found("keeps all build output", "the start command uses it")
		p.final = append([]string{"COPY --from=build --chown=%OWNER /app /app"}, p.final...)
	}
	return s.start(p, start, why, "jar")
}

// javaVersion is the release of Java in the images, and the version of Gradle's.
func javaVersion(s *source, p *plan, b javaBuild) (version, gradle string, err error) {
	system := systemJava(cmp.Or(s.read("system.properties"), s.above().read("system.properties")))
	declared := ""
	for _, text := range []string{b.text, b.parent} {
		for _, g := range javaRelease.FindStringSubmatch(text) {
			if declared == "" && number.MatchString(g) && !strings.ContainsAny(g, "<=(") {
				declared = g
			}
		}
	}
	v := firstSaid(p.want, said{system, "system.properties"}, said{declared, b.file}, numeric(s.tool("java")), said{"21", "the default"})
	// Images exist for the releases with long-term support; a newer one builds for
	// an older one.
	version = choose(">="+lines(v.text, 1), "8", "11", "17", "21", "25")
	if !b.maven {
		if gradle, version, err = gradleVersion(s, p, v, version); err != nil {
			return "", "", err
		}
		// A toolchain is exactly that release, unless Gradle may fetch it.
		if wanted := lines(v.text, 1); v.from == b.file && wanted != version && gradleToolchain.MatchString(b.text+b.parent) && !strings.Contains(b.settings, "foojay") {
			return "", "", mesh.Errorf(mesh.Invalid, "%s asks for a toolchain of Java %s, and Gradle's image has Java %s", b.file, wanted, version).
				WithHint("ask for Java %s, or let Gradle fetch toolchains: org.gradle.toolchains.foojay-resolver-convention in settings.gradle", version)
		}
	}
	p.found("Java "+version, v.from)
	return version, gradle, nil
}

var gradleToolchain = regexp.MustCompile(`languageVersion|jvmToolchain`)

// framework is the one whose programs need an option to listen on $PORT, or whose build
// leaves something else than a jar.
func (b javaBuild) framework() string {
	switch text := b.text + b.parent; {
	case strings.Contains(b.text, "quarkus"):
		return "Quarkus"
	case strings.Contains(text, "spring-boot"), strings.Contains(text, "org.springframework.boot"), gradleSpring.MatchString(b.text):
		return "Spring Boot"
	case strings.Contains(b.text, "micronaut"):
		return "Micronaut"
	}
	return ""
}

// javaPort are the options that make a framework listen on $PORT.
var javaPort = map[string]string{
	"Spring Boot": " -Dserver.port=$PORT",
	"Quarkus":     " -Dquarkus.http.host=0.0.0.0 -Dquarkus.http.port=$PORT",
	"Micronaut":   " -Dmicronaut.server.port=$PORT",
}

// javaMemory lets the heap have three quarters of what the container may use; without
// it, Java takes one.
const javaMemory = "-XX:MaxRAMPercentage=75"

// pack adds what takes the program out of the build, and returns what starts it.
func (b javaBuild) pack(p *plan, started, version string) (start, why string) {
	java := "java " + javaMemory + javaPort[p.Framework] + " -jar "
	switch {
	case p.Framework == "Quarkus":
		// https://quarkus.io/guides/maven-tooling#configuring-the-project-output
		p.build = append(p.build, "RUN if [ -d "+b.out+"/quarkus-app ]; then cp -r "+b.out+"/quarkus-app /quarkus-app; else mkdir /quarkus-app && cp "+b.out+"/*-runner.jar /quarkus-app/quarkus-run.jar; fi")
		p.final = []string{"COPY --from=build --chown=%OWNER /quarkus-app /app/quarkus-app"}
		return java + "quarkus-app/quarkus-run.jar", "the build of Quarkus"
	case b.war() && p.Framework == "" && strings.TrimSpace(started) == "":
		b.tomcat(p, version)
		return "catalina.sh run", "Tomcat, which runs the war of the build"
	case b.distributes(started):
		// The script finds its libraries beside itself, through the link too.
		p.build = append(p.build, "RUN cp -r \"$(ls -d "+b.out+"/install/* | head -1)\" /dist && cd /dist/bin && rm -f *.bat && ln -sf \"$(ls | head -1)\" start")
		p.final = []string{"COPY --from=build --chown=%OWNER /dist /app/dist"}
		p.env = append(p.env, `JAVA_OPTS="`+javaMemory+`"`)
		if p.Framework == "Micronaut" {
			return "env MICRONAUT_SERVER_PORT=$PORT dist/bin/start", "installDist, of Gradle's application plugin"
		}
		return "dist/bin/start", "installDist, of Gradle's application plugin"
	}
	p.build = append(p.build,
		// Of several jars, the largest: it contains the dependencies.
		"RUN f=\"$(ls -S "+b.jars()+"/*.jar "+b.jars()+"/*.war 2>/dev/null | grep -v -e -sources.jar -e -javadoc.jar -e -tests.jar -e -plain.jar -e -plain.war -e original- | head -1)\""+
			" && if [ -z \"$f\" ]; then echo \"the build left no jar and no war in "+b.jars()+"/, only: $(ls "+b.jars()+" 2>/dev/null | tr '\\n' ' ')\" >&2; exit 1; fi && cp \"$f\" /app.jar")
	p.final = []string{"COPY --from=build --chown=%OWNER /app.jar /app/app.jar"}
	return java + "app.jar", "the jar of the build"
}

// jars is the folder of the jars.
func (b javaBuild) jars() string {
	if b.maven {
		return b.out
	}
	return path.Join(b.out, "libs")
}
