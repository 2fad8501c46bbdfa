package mesh

import (
	"regexp"
	"strings"
	"time"
)

// Registry is what the server shows a registry of images, to get private ones.
type Registry struct {
	Host     string // as image names begin with it: "ghcr.io", "registry.example.com:5000", "docker.io"
	User     string
	Password Secret
	Added    time.Time
	AddedBy  KeyName
}

var registryRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?(:[0-9]{1,5})?$|^\[[0-9a-f:]+\](:[0-9]{1,5})?$`)

// ParseRegistryHost checks the name of a registry, and gives Docker Hub, which has
// several, the one that image names have.
func ParseRegistryHost(s string) (string, error) {
	host := strings.TrimSuffix(strings.TrimPrefix(strings.ToLower(s), "https://"), "/")
	switch host {
	case "docker.io", "index.docker.io", "registry-1.docker.io", "index.docker.io/v1", "hub.docker.com":
		return "docker.io", nil
	}
	if !registryRule.MatchString(host) {
		return "", Errorf(Invalid, "%q is not the host of a registry", Clip(s, 80)).WithHint("give what its images' names begin with, such as ghcr.io or registry.example.com:5000")
	}
	return host, nil
}
