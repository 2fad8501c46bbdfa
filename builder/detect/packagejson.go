package detect

import "encoding/json"

// packageJSON is what matters in a package.json. npm accepts, and ignores, values of
// other types in most places, and so does texts.
type packageJSON struct {
	Name            string
	Main            string
	Module          string
	Type            string
	PackageManager  string
	Engines         texts
	DevEngines      struct{ Runtime, PackageManager devEngine }
	Volta           texts // https://docs.volta.sh/guide/understanding
	Scripts         scriptTexts
	Dependencies    texts
	DevDependencies texts
	Workspaces      json.RawMessage
	Bin             json.RawMessage
	Prisma          struct{ Schema string }
}

func (j packageJSON) has(name string) bool { return j.runs(name) || j.develops(name) }

// runs reports whether a dependency is needed at run time.
func (j packageJSON) runs(name string) bool { _, is := j.Dependencies[name]; return is }

// develops reports whether only the development needs a dependency.
func (j packageJSON) develops(name string) bool {
	_, is := j.DevDependencies[name]
	return is && !j.runs(name)
}

// scriptTexts are commands by name: an object, or package.json is of no use.
type scriptTexts map[string]string

// UnmarshalJSON ignores values that are no texts, as npm does.
func (s *scriptTexts) UnmarshalJSON(b []byte) error {
	var all map[string]any
	if err := json.Unmarshal(b, &all); err != nil {
		return &notObjectError{"scripts", jsonKind(b)}
	}
	*s = onlyTexts(all)
	return nil
}

// texts are values by name; anything but an object is ignored.
type texts map[string]string

// UnmarshalJSON ignores values that are no texts.
func (t *texts) UnmarshalJSON(b []byte) error {
	var all map[string]any
	_ = json.Unmarshal(b, &all) // engines was a list once
	*t = onlyTexts(all)
	return nil
}

func onlyTexts(all map[string]any) map[string]string {
	list := map[string]string{}
	for name, v := range all {
		if text, ok := v.(string); ok {
			list[name] = text
		}
	}
	return list
}

// devEngine is what npm 10.9 and later check before they install: one tool, or several
// of which one must fit (https://docs.npmjs.com/cli/v11/configuring-npm/package-json#devengines).
type devEngine []struct{ Name, Version string }

// UnmarshalJSON accepts one tool or a list of them.
func (d *devEngine) UnmarshalJSON(b []byte) error {
	type tool = struct{ Name, Version string }
	var one tool
	if json.Unmarshal(b, &one) == nil && one.Name != "" {
		*d = devEngine{one}
		return nil
	}
	var several []tool
	_ = json.Unmarshal(b, &several) // npm reports what is wrong with it
	*d = several
	return nil
}

// version is the version that is asked of a tool.
func (d devEngine) version(name string) string {
	for _, t := range d {
		if t.Name == name {
			return t.Version
		}
	}
	return ""
}

// jsonKind names the type of a JSON value.
func jsonKind(b []byte) string {
	switch b[0] { // a decoder removes the blanks before it
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "true or false"
	}
	return "a number"
}
