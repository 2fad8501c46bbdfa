package detect

import (
	"regexp"

	"mesh"
)

var gradleDistribution = regexp.MustCompile(`(?m)^distributionUrl\s*=.*/gradle-(\d+(?:\.\d+){0,2})-`)

// gradleVersion is the version that the tree's wrapper fetches, as in an image's
// tag; otherwise one that runs on the requested release of Java. There are no images
// of a Gradle with a release of Java that it does not run on: if nothing asks for a
// release, or only for one too old for Gradle itself, another one is used.
func gradleVersion(s *source, p *plan, wanted said, java string) (gradle, runs string, err error) {
	const properties = "gradle/wrapper/gradle-wrapper.properties"
	m := gradleDistribution.FindStringSubmatch(s.above().read(properties))
	if m == nil {
		if java == "25" {
			return "9", java, nil // the first that runs on it
		}
		return "8", java, nil
	}
	gradle = lines(m[1], 2)
	newest, oldest := "25", "8"
	for _, g := range []struct{ below, java string }{{"9.1", "21"}, {"8.5", "17"}, {"7.3", "11"}} {
		if !atLeast(gradle, g.below) {
			newest = g.java
		}
	}
	if atLeast(gradle, "9.0") {
		oldest = "17"
	}
	switch {
	case !atLeast(java, oldest):
		java = oldest
	case !atLeast(newest, java) && wanted.from == "the default":
		java = newest
	case !atLeast(newest, java):
		return "", "", mesh.Errorf(mesh.Invalid, "%s asks for Java %s, and there is no image of Gradle %s with that", wanted.from, lines(wanted.text, 1), gradle).
			WithHint("use a newer Gradle: ./gradlew wrapper --gradle-version 9.1; or ask for Java %s", newest)
	}
	p.found("Gradle "+gradle, properties)
	return gradle, java, nil
}
