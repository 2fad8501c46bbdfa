package mesh

import (
	"fmt"
	"strings"
)

// ServerSettings are the settings of the server that take effect while it runs. Those of
// its start, such as addresses, are flags of mesh serve.
type ServerSettings struct {
	AutoCreate   AutoCreate
	DefaultStack StackName // gets the requests for unknown hosts; empty: they get 404
}

// AutoCreate says for whom a push or deploy to a stack that does not exist creates it.
type AutoCreate string

// The values of AutoCreate. stacks:create is for everyone who may deploy to the new stack.
const (
	AutoCreateOn     AutoCreate = "on" // everyone who may deploy to it; the default
	AutoCreateAdmins AutoCreate = "admins"
	AutoCreateOff    AutoCreate = "off"
)

// For reports whether a deployment by k creates stacks. The zero value is "on".
func (a AutoCreate) For(k Key) bool {
	switch a {
	case AutoCreateOff:
		return false
	case AutoCreateAdmins:
		return k.May(AccessAdmin, "")
	case AutoCreateOn:
	}
	return true
}

// Set changes a setting by its name; an empty value is the default.
func (s *ServerSettings) Set(name, value string) error {
	switch name {
	case "autocreate":
		switch a := AutoCreate(value); a {
		case AutoCreateOn, "":
			s.AutoCreate = ""
		case AutoCreateAdmins, AutoCreateOff:
			s.AutoCreate = a
		default:
			return Errorf(Invalid, "autocreate cannot be %q", Clip(value, 40)).WithHint("use on, admins or off")
		}
	case "default-stack":
		if value == "" {
			s.DefaultStack = ""
			return nil
		}
		stack, err := ParseStackName(value)
		if err != nil {
			return err
		}
		s.DefaultStack = stack
	default:
		var names []string
		for _, v := range (ServerSettings{}).List() {
			names = append(names, v.Name)
		}
		return &Error{Kind: Invalid, Text: fmt.Sprintf("the server has no setting %q", Clip(name, 40)), Hint: "use " + strings.Join(names, " or ") + "; others are flags: mesh serve --help"}
	}
	return nil
}

// ServerSetting is one of the settings, for people.
type ServerSetting struct{ Name, Value, What string }

// List returns all settings, with their values.
func (s ServerSettings) List() []ServerSetting {
	create := s.AutoCreate
	if create == "" {
		create = AutoCreateOn
	}
	return []ServerSetting{
		{"autocreate", string(create), "who creates a stack by pushing to it: on (everyone who may deploy), admins, off"},
		{"default-stack", string(s.DefaultStack), "the stack that gets requests for unknown hosts; empty: they get 404"},
	}
}
