package manifest

import (
	"maps"
	"slices"
	"strings"

	"mesh"
)

// What there is instead of the fields that mesh does not use.
const (
	sayAddons      = "a push creates no add-ons; create each once: ssh mesh addons:create postgres -a STACK"
	sayBuildpacks  = "mesh builds with the Dockerfile of the repository, or generates one"
	sayReview      = "a preview has one instance of each service, and the add-ons that previews-addons= gives it"
	sayPredestroy  = "nothing runs when a preview is destroyed"
	sayTests       = "mesh runs no tests; a release command runs before a push goes live"
	sayBase        = "the Dockerfile decides what the app runs on"
	sayOneImage    = "the instances of a stack run one image"
	saySizes       = "set limits with: ssh mesh svc:update -a STACK --memory 512m --cpus 0.5 web"
	sayScaling     = "set the number of instances with: ssh mesh ps:scale -a STACK web=2"
	sayBuildConfig = "declare them with ARG, and set them as config vars: ssh mesh config:set -a STACK NAME=VALUE"
	sayConfig      = "set them once: ssh mesh config:set -a STACK NAME=VALUE"
	sayUnknown     = "mesh does not know it"
)

// fields are the fields of a file by path, with what there is instead of them; "" for
// those that mesh reads. A "*" stands for any name.
type fields map[string]string

// appFields are those of app.json (devcenter.heroku.com/articles/app-json-schema,
// dokku.com/docs/appendices/file-formats/app-json). Some only describe an app: nobody
// expects an effect of them.
var appFields = fields{
	"$schema": "", "description": "", "keywords": "", "logo": "", "name": "", "repository": "", "success_url": "", "website": "",
	"env": "", "healthchecks": "", "cron": "",
	"formation.*.quantity": "", "formation.*.command": "",
	"environments.review.env": "", "environments.review.scripts.postdeploy": "", "environments.review.scripts.pr-predestroy": sayPredestroy,
	"scripts.predeploy": "", "scripts.postdeploy": "", "scripts.dokku.predeploy": "", "scripts.dokku.postdeploy": "",

	"addons":                   sayAddons,
	"buildpacks":               sayBuildpacks,
	"environments.test":        sayTests,
	"environments.*":           "mesh reads environments.review only",
	"environments.review.*":    sayReview,
	"stack":                    sayBase,
	"image":                    "deploy an image with: ssh mesh deploy -a STACK --image IMAGE",
	"formation.*.size":         saySizes,
	"formation.*.max_parallel": "all new instances start beside the old ones",
	"formation.*.autoscaling":  sayScaling,
	"formation.*.service":      "publish a service with: ssh mesh svc:publish -a STACK --endpoint URL NAME",
	"scripts.pr-predestroy":    sayPredestroy,
	"scripts.test":             sayTests,
	"scripts.test-setup":       sayTests,
}

// ymlFields are those of heroku.yml (devcenter.heroku.com/articles/build-docker-images-heroku-yml).
var ymlFields = fields{
	"build.docker.*": "", "build.docker.*.dockerfile": "", "build.docker.*.target": "",
	"release.command": "", "run.*": "", "run.*.command": "",

	"setup.addons":     sayAddons,
	"setup.config":     sayConfig,
	"build.config":     sayBuildConfig,
	"build.languages":  sayBuildpacks,
	"build.packages":   sayBuildpacks,
	"build.pre":        sayBuildpacks,
	"build.buildpacks": sayBuildpacks,
	"release.image":    sayOneImage,
	"run.*.image":      sayOneImage,
	"run.*.size":       saySizes,
	"run.*.quantity":   sayScaling,
}

// unused notes the fields of a file that have no effect. have is the file as maps.
func (m *Manifest) unused(file string, known fields, have map[string]any) {
	var walk func(prefix string, have map[string]any)
	walk = func(prefix string, have map[string]any) {
		for _, name := range slices.Sorted(maps.Keys(have)) {
			path := prefix + name
			below, _ := have[name].(map[string]any)
			if below != nil && known.below(path) {
				walk(path+".", below)
				continue
			}
			say, ok := known.find(path)
			if !ok {
				say = sayUnknown
			}
			if say != "" && have[name] != nil {
				m.note("%s: %s is not used%s: %s", file, mesh.Clip(mesh.Visible(path), 60), listed(have[name]), say)
			}
		}
	}
	walk("", have)
}

// find returns what a table says of a path. A path without "*" comes first.
func (f fields) find(path string) (say string, ok bool) {
	if say, ok := f[path]; ok {
		return say, true
	}
	for key, say := range f {
		if matches(key, path) {
			return say, true
		}
	}
	return "", false
}

// below reports whether a table has paths below one.
func (f fields) below(path string) bool {
	n := strings.Count(path, ".") + 1
	for key := range f {
		if k := strings.Split(key, "."); len(k) > n && matches(strings.Join(k[:n], "."), path) {
			return true
		}
	}
	return false
}

func matches(key, path string) bool {
	return slices.EqualFunc(strings.Split(key, "."), strings.Split(path, "."), func(k, p string) bool { return k == "*" || k == p })
}

// listed returns what a field names, in parentheses, so that people see what is missing.
func listed(v any) string {
	var all []string
	list, _ := v.([]any)
	for _, e := range list {
		switch e := e.(type) {
		case string:
			all = append(all, e)
		case map[string]any:
			for _, key := range []string{"plan", "url", "command"} {
				if s, ok := e[key].(string); ok {
					all = append(all, s)
					break
				}
			}
		}
	}
	if s, ok := v.(string); ok {
		all = append(all, s)
	}
	if len(all) == 0 {
		return ""
	}
	return " (" + mesh.Clip(mesh.Visible(strings.Join(all, ", ")), 80) + ")"
}
