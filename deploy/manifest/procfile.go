package manifest

import (
	"errors"
	"fmt"
	"strings"

	"mesh"
)

// ParseProcfile parses "name: command" lines. It skips blank lines and lines that begin
// with #. The entry "release" is the release command.
func ParseProcfile(text string) (services map[mesh.ServiceName]string, err error) {
	services = map[mesh.ServiceName]string{}
	n := 0
	for line := range strings.SplitSeq(strings.TrimPrefix(text, "\ufeff"), "\n") {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		bad := func(why string) error {
			return &mesh.Error{
				Kind: mesh.Failed, Text: fmt.Sprintf("Procfile:%d: %s", n, why),
				Hint: "write NAME: COMMAND, for example: web: ./server --port $PORT",
			}
		}
		name, command, ok := strings.Cut(line, ":")
		if !ok {
			return nil, bad(fmt.Sprintf("%q has no colon", mesh.Clip(line, 60)))
		}
		svc, err := mesh.ParseServiceName(strings.TrimSpace(name))
		var rule *mesh.Error
		if errors.As(err, &rule) {
			return nil, &mesh.Error{Kind: mesh.Failed, Text: fmt.Sprintf("Procfile:%d: %s", n, rule.Text), Hint: rule.Hint, Err: err}
		}
		command = strings.TrimSpace(command)
		switch _, twice := services[svc]; {
		case command == "":
			return nil, bad(fmt.Sprintf("%s has no command", svc))
		case strings.ContainsRune(command, 0):
			return nil, bad(fmt.Sprintf("the command of %s contains a NUL", svc))
		case twice:
			return nil, bad(fmt.Sprintf("%s is there twice", svc))
		}
		services[svc] = command
	}
	return services, nil
}
