package detect

import (
	"regexp"
	"strings"
)

// oldServlets are the names of the interfaces up to Tomcat 9; Tomcat 10 has others.
var oldServlets = regexp.MustCompile(`javax\.servlet|javaee-api|javax:javaee|<artifactId>servlet-api<`)

// tomcat runs the war as the site's root in Tomcat's official image. Tomcat's
// configuration takes $PORT, and the client's address and scheme from mesh's router. The
// war is unpacked by the build, because the program may not write to webapps.
func (b javaBuild) tomcat(p *plan, version string) {
	tomcat := "10.1"
	if !atLeast(version, "11") || oldServlets.MatchString(b.text+b.parent) && !strings.Contains(b.text+b.parent, "jakarta.servlet") {
		tomcat = "9.0"
	}
	p.image = "tomcat:" + tomcat + "-jre" + version + "-temurin-jammy"
	if version == "25" { // its images have Ubuntu 24.04, with a user of that name
		p.image, p.user = "tomcat:"+tomcat+"-jre25-temurin-noble", "ubuntu"
	}
	p.found("runs in Tomcat "+tomcat, b.file+" makes a war")
	p.env = append(p.env, `CATALINA_OPTS="`+javaMemory+` -Dorg.apache.tomcat.util.digester.PROPERTY_SOURCE=org.apache.tomcat.util.digester.EnvironmentPropertySource"`)
	p.build = append(p.build, "RUN f=\"$(ls -S "+b.jars()+"/*.war | grep -v -e -plain.war | head -1)\" && mkdir /war && cd /war && jar xf \"/app/$f\"")
	p.final = []string{
		`RUN sed -i -e 's/port="8080"/port="${PORT}"/' -e 's/<Server port="8005"/<Server port="-1"/' -e '/AccessLogValve/,/\/>/d' ` +
			`-e 's#</Host>#<Valve className="org.apache.catalina.valves.RemoteIpValve" protocolHeader="X-Forwarded-Proto"/></Host>#' $CATALINA_HOME/conf/server.xml && mkdir -p $CATALINA_HOME/conf/Catalina/localhost`,
		"COPY --from=build /war /usr/local/tomcat/webapps/ROOT",
	}
}
