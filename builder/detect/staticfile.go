package detect

import (
	"strings"

	"go.yaml.in/yaml/v3"

	"mesh"
)

// declaredSite is what a file says about a static site, from Cloud Foundry's
// Staticfile (https://docs.cloudfoundry.org/buildpacks/staticfile) or Heroku's
// static.json (https://github.com/heroku/heroku-buildpack-static).
type declaredSite struct {
	root     string // the folder; empty: not said
	fallback bool   // index.html is for any path without a file
	from     string // the file; empty: there is none
	ignored  []string
}

// staticFile reads a Staticfile or a static.json.
func staticFile(s *source) (d declaredSite, err error) {
	switch {
	case s.has("Staticfile"):
		d.from = "Staticfile"
		var lines map[string]any
		if yaml.Unmarshal([]byte(s.read("Staticfile")), &lines) != nil {
			return d, mesh.Errorf(mesh.Invalid, "Staticfile is not a list of NAME: VALUE lines").WithHint("for example: root: public")
		}
		for name, v := range lines {
			on := v == true || v == "enabled"
			switch name {
			case "root":
				d.root, _ = v.(string)
			case "pushstate", "index_fallback":
				d.fallback = on
			case "gzip", "host_dot_files", "directory":
				if on && name != "gzip" {
					d.ignored = append(d.ignored, name)
				}
			default:
				d.ignored = append(d.ignored, name)
			}
		}
	case s.has("static.json"):
		d.from = "static.json"
		var file struct {
			Root      string
			Routes    map[string]string
			Headers   any
			Redirects any
			Proxies   any
			ErrorPage string `json:"error_page"`
		}
		if err := s.json("static.json", &file); err != nil {
			return d, err
		}
		d.root, d.fallback = file.Root, strings.TrimPrefix(file.Routes["/**"], "/") == "index.html"
		if d.root == "" {
			d.root = "public_html"
		}
		for name, given := range map[string]bool{"headers": file.Headers != nil, "redirects": file.Redirects != nil, "proxies": file.Proxies != nil, "error_page": file.ErrorPage != ""} {
			if given {
				d.ignored = append(d.ignored, name)
			}
		}
	default:
		return d, nil
	}
	d.root = strings.Trim(strings.TrimPrefix(d.root, "./"), "/")
	if d.root != "" && !plainPath.MatchString(d.root) || strings.HasPrefix(d.root, "..") {
		return d, mesh.Errorf(mesh.Invalid, "%s: root is %q, which is not a plain path in the repository", d.from, mesh.Clip(d.root, 60))
	}
	return d, nil
}
