package manifest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"mesh"
)

// meshTOML reads settings by their build:set names, and jobs as tables: [cron.NAME].
func (m *Manifest) meshTOML(text string) error {
	var all map[string]any
	err := toml.Unmarshal([]byte(text), &all)
	var at *toml.DecodeError
	if errors.As(err, &at) {
		line, _ := at.Position()
		return bad("mesh.toml", line, strings.TrimPrefix(at.Error(), "toml: "))
	} else if err != nil {
		return bad("mesh.toml", 0, err.Error())
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if name == "cron" {
			if err := m.cronTables(all[name]); err != nil {
				return err
			}
			continue
		}
		var value string
		switch v := all[name].(type) {
		case string:
			value = v
		case bool, int64, float64:
			value = fmt.Sprint(v)
		case []any:
			var words []string
			for _, w := range v {
				words = append(words, fmt.Sprint(w))
			}
			value = strings.Join(words, ",")
		default:
			return bad("mesh.toml", 0, fmt.Sprintf("%s must be a string, a list or a boolean", mesh.Clip(name, 60)))
		}
		if name == "branch" {
			return bad("mesh.toml", 0, "branch cannot be set in mesh.toml").WithHint("set it with: ssh mesh build:set branch=NAME")
		}
		if err := m.set("mesh.toml", name, value); err != nil {
			return err
		}
	}
	return nil
}
