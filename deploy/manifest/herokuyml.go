package manifest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"mesh"
)

// herokuYML reads build.docker, release and run. A stack has one image: web's, or the
// only one.
func (m *Manifest) herokuYML(text string) error {
	var y struct {
		Build struct {
			Docker map[string]any
		}
		Release struct {
			Image   string
			Command yaml.Node
		}
		Run map[string]yaml.Node
	}
	if err := yaml.Unmarshal([]byte(text), &y); err != nil {
		return bad("heroku.yml", 0, strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " "))
	}
	files := map[string]bool{}
	dockerfile, stage := "", ""
	for _, name := range slices.Sorted(maps.Keys(y.Build.Docker)) {
		file, target := "", ""
		switch v := y.Build.Docker[name].(type) {
		case string:
			file = v
		case map[string]any:
			file, _ = v["dockerfile"].(string)
			target, _ = v["target"].(string)
		}
		if file == "" {
			return bad("heroku.yml", 0, fmt.Sprintf("build.docker.%s names no Dockerfile", mesh.Clip(name, 40)))
		}
		files[file] = true
		if dockerfile == "" || name == string(mesh.Web) {
			dockerfile, stage = file, target
		}
	}
	if len(files) > 1 {
		return bad("heroku.yml", 0, "build.docker has several Dockerfiles, but a stack has one image: "+strings.Join(slices.Sorted(maps.Keys(files)), ", ")).
			WithHint("use one stack per Dockerfile with dockerfile=, or one image with a service per command")
	}
	if dockerfile != "" {
		if err := errors.Join(m.set("heroku.yml", "dockerfile", dockerfile), m.set("heroku.yml", "target", stage)); err != nil {
			return err
		}
	}
	var all map[string]any
	if yaml.Unmarshal([]byte(text), &all) == nil {
		m.unused("heroku.yml", ymlFields, all)
	}
	m.service(mesh.ReleaseCommand, commandOf(y.Release.Command), "heroku.yml")
	for name, n := range y.Run {
		svc, err := mesh.ParseServiceName(name)
		if err != nil {
			return bad("heroku.yml", 0, err.Error())
		}
		if n.Kind == yaml.MappingNode {
			var v struct{ Command yaml.Node }
			if err := n.Decode(&v); err != nil {
				return bad("heroku.yml", n.Line, err.Error())
			}
			n = v.Command
		}
		m.service(svc, commandOf(n), "heroku.yml")
	}
	return nil
}

// commandOf returns a command given as a string or as a list of lines.
func commandOf(n yaml.Node) string {
	var one string
	if n.Kind == 0 {
		return ""
	}
	if n.Decode(&one) == nil {
		return one
	}
	var list []string
	if n.Decode(&list) != nil {
		return ""
	}
	return strings.Join(list, " && ")
}
