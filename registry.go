package mesh

import (
	"regexp"
	"strings"
	"time"
)

// Registry is the login that the server uses at an image registry, for private
// images.
type Registry struct {
	Host     string // as image names begin with it: "ghcr.io", "registry.example.com:5000", "docker.io"
	User     string
	Password Secret
	Added    time.Time
	AddedBy  KeyName
}

var registryRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?(:[0-9]{1,5})?$|^\[[0-9a-f:]+\](:[0-9]{1,5})?$`)

// ParseRegistryHost checks the name of a registry. For Docker Hub, which has several
// names, it returns the one in image names.
func ParseRegistryHost(s string) (string, error) {
	host := strings.TrimSuffix(strings.TrimPrefix(strings.ToLower(s), "https://"), "/")
	switch host {
	case "docker.io", "index.docker.io", "registry-1.docker.io", "index.docker.io/v1", "hub.docker.com":
		return "docker.io", nil
	}
	if !registryRule.MatchString(host) {
		return "", Errorf(Invalid, "%q is not the host of a registry", Clip(s, 80)).WithHint("use the beginning of its image names, such as ghcr.io or registry.example.com:5000")
	}
	return host, nil
}
