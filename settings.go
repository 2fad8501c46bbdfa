package mesh

import (
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// setting is one name of build:set.
type setting struct {
	name string
	get  func(Settings) string
	set  func(s *Settings, v string) error // "" is the default
}

var (
	branchRule  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$`)
	packageRule = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,99}$`)
	imageRule   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}$`)
	stageRule   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$`)
	userRule    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?$`)
)

// settings in the order that people read them in.
var settings = []setting{
	{"branch", func(s Settings) string { return s.Branch }, func(s *Settings, v string) error {
		// git check-ref-format's rules, as far as the pattern leaves them open.
		if v != "" && (!branchRule.MatchString(v) || strings.Contains(v, "..") || strings.Contains(v, "//") || strings.HasSuffix(v, "/") || strings.HasSuffix(v, ".lock") || strings.HasSuffix(v, ".")) {
			return Errorf(Invalid, "%q is not a branch name", Clip(v, 60))
		}
		s.Branch = v
		return nil
	}},
	pathSetting("root", "web", func(s *Settings) *string { return &s.Root }),
	pathSetting("context", "web", func(s *Settings) *string { return &s.Context }),
	pathSetting("dockerfile", "docker/web.Dockerfile", func(s *Settings) *string { return &s.Dockerfile }),
	ruled("target", stageRule, "the name of a stage", func(s *Settings) *string { return &s.Target }),
	list("packages", packageRule, "the name of a Debian package", func(s *Settings) *[]string { return &s.Packages }),
	list("build-packages", packageRule, "the name of a Debian package", func(s *Settings) *[]string { return &s.BuildPackages }),
	ruled("base-image", imageRule, "the name of an image", func(s *Settings) *string { return &s.BaseImage }),
	line("build-command", func(s *Settings) *string { return &s.BuildCommand }),
	line("start-command", func(s *Settings) *string { return &s.StartCommand }),
	ruled("user", userRule, "a user, as USER or USER:GROUP", func(s *Settings) *string { return &s.User }),
	truth("pull", func(s *Settings) **bool { return &s.Pull }),
	list("watch", regexp.MustCompile(`^[^,\x00-\x1f]{1,200}$`), "a pattern such as web/**", func(s *Settings) *[]string { return &s.Watch }),
	truth("show-command", func(s *Settings) **bool { return &s.ShowCommand }),
	{"health", func(s Settings) string { return s.Health }, func(s *Settings, v string) error {
		if v != "" && (!strings.HasPrefix(v, "/") || strings.ContainsAny(v, " \r\n\t\x00#") || len(v) > 1000) {
			return Errorf(Invalid, "%q is not a path to ask for", Clip(v, 60)).WithHint("give one such as /healthz")
		}
		if !utf8.ValidString(v) {
			return Errorf(Invalid, "%q is not valid UTF-8", Clip(v, 60)).WithHint("write the byte with a percent sign, as in /caf%%E9")
		}
		s.Health = v
		return nil
	}},
	duration("check-timeout", time.Second, time.Hour, func(s *Settings) *time.Duration { return &s.CheckTimeout }),
	duration("drain", 0, 24*time.Hour, func(s *Settings) *time.Duration { return &s.Drain }),
	duration("websocket-drain", 0, 24*time.Hour, func(s *Settings) *time.Duration { return &s.UpgradedDrain }),
	duration("stop-timeout", time.Second, time.Hour, func(s *Settings) *time.Duration { return &s.StopTimeout }),
	duration("first-byte", time.Second, 24*time.Hour, func(s *Settings) *time.Duration { return &s.FirstByte }),
	duration("release-timeout", time.Second, 24*time.Hour, func(s *Settings) *time.Duration { return &s.ReleaseTime }),
}

// SettingNames are the names that Set knows, in the order that people read them in.
func SettingNames() (names []string) {
	for _, s := range settings {
		names = append(names, s.name)
	}
	return names
}

// Get is the value of a setting as build:set takes it; empty when it has its
// default or there is none of that name.
func (s Settings) Get(name string) string {
	for _, t := range settings {
		if t.name == name {
			return t.get(s)
		}
	}
	return ""
}

// Set changes a setting; an empty value is the default. It tells the rule that a
// value breaks, and gives NotFound for a name that there is not.
func (s *Settings) Set(name, value string) error {
	for _, t := range settings {
		if t.name == name {
			return t.set(s, value)
		}
	}
	return Errorf(NotFound, "there is no build setting %q", Clip(name, 60)).WithHint("there are %s", strings.Join(SettingNames(), ", "))
}

// Is tells whether a setting that may not have been said is true.
func Is(said *bool) bool { return said != nil && *said }

// Over is s where it says something, and below elsewhere.
func (s Settings) Over(below Settings) Settings {
	v, b := reflect.ValueOf(&s).Elem(), reflect.ValueOf(below)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			v.Field(i).Set(b.Field(i))
		}
	}
	return s
}

func pathSetting(name, example string, field func(*Settings) *string) setting {
	return setting{name, func(s Settings) string { return *field(&s) }, func(s *Settings, v string) error {
		clean := path.Clean("/" + v)[1:]
		if v != "" && (clean == "" || strings.HasPrefix(v, "/") || strings.Contains("/"+v+"/", "/../") || strings.ContainsAny(v, "\x00\n")) {
			return Errorf(Invalid, "%q is not a path inside the repository", Clip(v, 60)).WithHint("give one such as %s", example)
		}
		*field(s) = clean
		return nil
	}}
}

func ruled(name string, rule *regexp.Regexp, what string, field func(*Settings) *string) setting {
	return setting{name, func(s Settings) string { return *field(&s) }, func(s *Settings, v string) error {
		if v != "" && !rule.MatchString(v) {
			return Errorf(Invalid, "%s=%q is not %s", name, Clip(v, 60), what)
		}
		*field(s) = v
		return nil
	}}
}

func list(name string, rule *regexp.Regexp, what string, field func(*Settings) *[]string) setting {
	return setting{name, func(s Settings) string { return strings.Join(*field(&s), ",") }, func(s *Settings, v string) error {
		var out []string
		for w := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' }) {
			if !rule.MatchString(w) {
				return Errorf(Invalid, "%s: %q is not %s", name, Clip(w, 60), what)
			}
			if !slices.Contains(out, w) {
				out = append(out, w)
			}
		}
		*field(s) = out
		return nil
	}}
}

func line(name string, field func(*Settings) *string) setting {
	return setting{name, func(s Settings) string { return *field(&s) }, func(s *Settings, v string) error {
		if strings.ContainsAny(v, "\x00\r\n") || len(v) > 4000 {
			return Errorf(Invalid, "%s has to be one line of at most 4,000 bytes", name).WithHint("put more into a script of the repository")
		}
		if err := CheckCommand(v); err != nil {
			return err
		}
		*field(s) = strings.TrimSpace(v)
		return nil
	}}
}

func truth(name string, field func(*Settings) **bool) setting {
	return setting{
		name, func(s Settings) string {
			if said := *field(&s); said != nil {
				return strconv.FormatBool(*said)
			}
			return ""
		},
		func(s *Settings, v string) error {
			if v == "" {
				*field(s) = nil
				return nil
			}
			on, err := strconv.ParseBool(v)
			if err != nil {
				return Errorf(Invalid, "%s=%q is neither true nor false", name, Clip(v, 40))
			}
			*field(s) = &on
			return nil
		},
	}
}

func duration(name string, least, most time.Duration, field func(*Settings) *time.Duration) setting {
	return setting{
		name, func(s Settings) string {
			if d := *field(&s); d != 0 {
				return d.String()
			}
			return ""
		},
		func(s *Settings, v string) error {
			if v == "" {
				*field(s) = 0
				return nil
			}
			d, err := time.ParseDuration(v)
			if err != nil || d < least || d > most || d == 0 {
				return Errorf(Invalid, "%s=%q is not a time from %s to %s", name, Clip(v, 40), max(least, time.Millisecond), most).WithHint("give one such as 45s or 2m")
			}
			*field(s) = d
			return nil
		},
	}
}
