package mesh

import (
	"fmt"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Settings are a stack's build and check settings. The zero value means the
// documented defaults; BuildSettings lists them with their bounds. Paths are
// relative and clean.
type Settings struct {
	Branch         string        // the deploy branch; empty until the first push sets it
	Dockerfile     string        // path below Root; empty: "Dockerfile", or what is detected if there is none
	Health         string        // path that must answer 2xx or 3xx; empty: any answer but a 5xx at /
	CheckTimeout   time.Duration // time an instance has to become healthy; 0: DefaultCheckTimeout
	Drain          time.Duration // time for open requests when an instance retires; 0: DefaultDrain
	UpgradedDrain  time.Duration // the same for upgraded connections (WebSockets); 0: DefaultDrain
	StopTimeout    time.Duration // from SIGTERM to SIGKILL; 0: DefaultStopTimeout
	FirstByte      time.Duration // time an app has to begin an answer; 0: DefaultFirstByte
	ReleaseTimeout time.Duration // time limit of the release command; 0: DefaultReleaseTime

	Root          string   // the folder of the tree to build; empty: the whole tree
	Context       string   // the folder that COPY sees; empty: the tree; without a Dockerfile, Root or the workspace it belongs to
	Target        string   // the stage of the Dockerfile; empty: the last
	Packages      []string // Debian packages for run time; without a Dockerfile
	BuildPackages []string // Debian packages for the build only; without a Dockerfile
	BaseImage     string   // instead of the language's own; without a Dockerfile
	BuildCommand  string   // instead of the detected one; without a Dockerfile
	Language      string   // the version of the language, instead of the tree's; without a Dockerfile
	Install       string   // the command that installs dependencies, instead of the detected one; without a Dockerfile
	Output        string   // the folder of a built site to serve, instead of the detected one; without a Dockerfile
	BuildArgs     []string // NAME=VALUE of ARGs, which win over config vars
	ImageTag      string   // a further tag of the image, with {commit} and so on; empty: none
	StartCommand  string   // of web, unless svc:update sets one; overrides the Procfile
	User          string   // the user that runs the program; empty: the image's
	Pull          *bool    // check the registries for newer base images; nil: unset, like false
	Watch         []string // patterns; a push that changes no matching file is not built
	ShowCommand   *bool    // print the equivalent docker build command; nil: unset, like false
	BuildNode     string   // a label that the node must have which builds: "zone=b"; empty: this machine builds

	LogSize int64         // bytes that the log may take on the disk; 0: DefaultLogSize
	LogAge  time.Duration // after which log lines are removed, give or take a day; 0: DefaultLogAge
	LogRate int           // lines a second of one container, above which lines are not kept; 0: DefaultLogRate

	Sleep         time.Duration // how long without a request until instances stop; 0: never, but for previews; -1: off
	SleepServices string        // all: workers as well; empty: web alone
	SleepIgnore   []string      // patterns of User-Agents whose requests neither wake the stack nor keep it awake

	Canary     string        // as ParseCanary reads it; empty: a new release gets all clients at once
	CanaryStep time.Duration // how long each share lasts; 0: DefaultCanaryStep

	Previews    []string      // patterns of the branches that get previews; or true, or false
	PreviewsTTL time.Duration // how long a preview stays after its last push; 0: DefaultPreviewsTTL
	PreviewsMax int           // previews at once; 0: DefaultPreviewsMax

	PreviewsAddons PreviewsAddons
}

// Defaults of Settings.
const (
	DefaultCheckTimeout = 60 * time.Second
	DefaultDrain        = 30 * time.Second
	DefaultStopTimeout  = 30 * time.Second
	DefaultReleaseTime  = time.Hour
	DefaultFirstByte    = 60 * time.Second
	DefaultDockerfile   = "Dockerfile"
	DefaultLogSize      = 500 << 20
	DefaultLogAge       = 7 * 24 * time.Hour
	DefaultLogRate      = 10_000
)

// Setting is one name that build:set and mesh.toml accept. The table of all of
// them is what parses a value, and what the help of build:set and
// docs/settings.md are printed from.
type Setting struct {
	Name    string
	Value   string // stands for the value in help: "DIR"
	Help    string // what it is
	Default string // in words
	kind
}

// Accepts describes the values that the setting accepts.
func (s Setting) Accepts() string { return s.accepts }

// kind is how one sort of value is described, printed and parsed.
type kind struct {
	accepts string
	get     func(Settings) string
	set     func(s *Settings, name, v string) error // "" is the default
}

// BuildSettings returns all settings, in the order that people read them in.
func BuildSettings() []Setting { return slices.Clone(settings) }

var (
	branchRule  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$`)
	packageRule = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,99}$`)
	imageRule   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}$`)
	stageRule   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$`)
	userRule    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?$`)
	versionRule = regexp.MustCompile(`^[<>=~^v]{0,2} ?[0-9A-Za-z][0-9A-Za-z.+*/-]{0,39}$`)
	argRule     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,99}=[^,\s\x00-\x1f]{0,1000}$`)
	tagRule     = regexp.MustCompile(`^[A-Za-z0-9_{][A-Za-z0-9_.{}-]{0,127}$`)
	globRule    = regexp.MustCompile(`^[^,\x00-\x1f]{1,200}$`)
)

// maxSettingLine limits build-command and start-command, in bytes.
const maxSettingLine = 4000

var settings = []Setting{
	{
		"branch", "NAME", "the branch to deploy", "the first branch pushed", kind{
			"a branch name of at most 200 characters",
			func(s Settings) string { return s.Branch }, setBranch,
		},
	},
	{
		"root", "DIR", "the folder to build", "the whole repository",
		pathKind("web", func(s *Settings) *string { return &s.Root }),
	},
	{
		"context", "DIR", "the folder that COPY sees", "the whole repository; without a Dockerfile: root, or the workspace it belongs to",
		pathKind("web", func(s *Settings) *string { return &s.Context }),
	},
	{
		"dockerfile", "PATH", "the Dockerfile, below root", DefaultDockerfile + "; if there is none, mesh generates one",
		pathKind("docker/web.Dockerfile", func(s *Settings) *string { return &s.Dockerfile }),
	},
	{
		"target", "STAGE", "the stage of the Dockerfile to build", "the last stage",
		patternKind(stageRule, "the name of a stage", func(s *Settings) *string { return &s.Target }),
	},
	{
		"packages", "A,B", "Debian packages for the program, without a Dockerfile", "what the dependencies need",
		listKind(packageRule, "the name of a Debian package", "names of Debian packages, with commas", func(s *Settings) *[]string { return &s.Packages }),
	},
	{
		"build-packages", "A,B", "Debian packages for the build only, without a Dockerfile", "what the dependencies need",
		listKind(packageRule, "the name of a Debian package", "names of Debian packages, with commas", func(s *Settings) *[]string { return &s.BuildPackages }),
	},
	{
		"base-image", "REF", "the base image, without a Dockerfile", "the usual image of the language",
		patternKind(imageRule, "the name of an image", func(s *Settings) *string { return &s.BaseImage }),
	},
	{
		"build-command", "LINE", "the build command, without a Dockerfile", "what is detected",
		lineKind(func(s *Settings) *string { return &s.BuildCommand }),
	},
	{
		"language-version", "VERSION", "the version of the language, without a Dockerfile", "what the repository's files say",
		patternKind(versionRule, "a version such as 22, 3.12.4 or >=20", func(s *Settings) *string { return &s.Language }),
	},
	{
		"install-command", "LINE", "the command that installs dependencies, without a Dockerfile", "what is detected",
		lineKind(func(s *Settings) *string { return &s.Install }),
	},
	{
		"output", "DIR", "the folder of a built site to serve, without a Dockerfile", "what the framework uses",
		pathKind("dist", func(s *Settings) *string { return &s.Output }),
	},
	{
		"build-args", "A=1,B=2", "values of ARGs; they win over config vars", "the config vars of those names", kind{
			"NAME=VALUE with commas; a value has no comma, blank or line end, and is not secret",
			func(s Settings) string { return strings.Join(s.BuildArgs, ",") }, setBuildArgs,
		},
	},
	{
		"image-tag", "FORMAT", "a further tag of the image", "none: mesh/STACK:COMMIT alone", kind{
			"a tag with {commit}, {tag}, {branch}, {deployment} or {time} in it",
			func(s Settings) string { return s.ImageTag }, setImageTag,
		},
	},
	{
		"start-command", "LINE", "the command of web; wins over the Procfile", "the Procfile's, then the image's",
		lineKind(func(s *Settings) *string { return &s.StartCommand }),
	},
	{
		"user", "NAME", "the user that runs the program", "the image's",
		patternKind(userRule, "a user, as USER or USER:GROUP", func(s *Settings) *string { return &s.User }),
	},
	{
		"pull", "true", "check the registries for newer base images", "false: use the local base image if present",
		boolKind(func(s *Settings) **bool { return &s.Pull }),
	},
	{
		"watch", "GLOB,GLOB", "skip pushes that change no matching file", "build every push",
		listKind(globRule, "a pattern such as web/**", "patterns such as web/**, with commas", func(s *Settings) *[]string { return &s.Watch }),
	},
	{
		"show-command", "true", "print the equivalent docker build command", "false",
		boolKind(func(s *Settings) **bool { return &s.ShowCommand }),
	},
	{
		"node", "LABEL=VALUE", "a label of the node that builds", "the server's machine", kind{
			"a label with its value, such as zone=b or name=web2; or none",
			func(s Settings) string { return s.BuildNode }, setBuildNode,
		},
	},
	{
		"health", "/PATH", "the path that must answer 2xx or 3xx", "any answer but a 5xx, at /", kind{
			"a path of at most 1,000 bytes",
			func(s Settings) string { return s.Health }, setHealth,
		},
	},
	{
		"check-timeout", "TIME", "time an instance has to become healthy", Brief(DefaultCheckTimeout),
		timeKind(time.Second, time.Hour, func(s *Settings) *time.Duration { return &s.CheckTimeout }),
	},
	{
		"drain", "TIME", "time for open requests when an instance retires", Brief(DefaultDrain),
		timeKind(0, 24*time.Hour, func(s *Settings) *time.Duration { return &s.Drain }),
	},
	{
		"websocket-drain", "TIME", "time for WebSockets and other upgraded connections then", Brief(DefaultDrain),
		timeKind(0, 24*time.Hour, func(s *Settings) *time.Duration { return &s.UpgradedDrain }),
	},
	{
		"stop-timeout", "TIME", "time from SIGTERM to SIGKILL", Brief(DefaultStopTimeout),
		timeKind(time.Second, time.Hour, func(s *Settings) *time.Duration { return &s.StopTimeout }),
	},
	{
		"first-byte", "TIME", "time the app has to begin an answer; takes effect at once", Brief(DefaultFirstByte),
		timeKind(time.Second, 24*time.Hour, func(s *Settings) *time.Duration { return &s.FirstByte }),
	},
	{
		"release-timeout", "TIME", "time limit of the release command", Brief(DefaultReleaseTime),
		timeKind(time.Second, 24*time.Hour, func(s *Settings) *time.Duration { return &s.ReleaseTimeout }),
	},
	{
		"log-size", "SIZE", "room for the log; takes effect within a minute", "500M", kind{
			"a size from 1M to 1T",
			func(s Settings) string { return formatSize(s.LogSize) }, setLogSize,
		},
	},
	{
		"log-age", "TIME", "how long log lines are kept, give or take a day", "7d",
		ageKind(time.Hour, 3650*24*time.Hour, func(s *Settings) *time.Duration { return &s.LogAge }),
	},
	{
		"log-rate", "N", "lines a second of an instance that are kept, at most", "10000",
		numberKind(10, 10_000_000, func(s *Settings) *int { return &s.LogRate }),
	},
	{
		"sleep", "TIME", "time without a request until web stops; a request starts it", "off; 30m for previews", kind{
			"a time from 10s to 30d, or off",
			formatSleep, setSleep,
		},
	},
	{
		"sleep-services", "all", "what sleeps", "web", kind{
			"web or all",
			func(s Settings) string { return s.SleepServices }, setSleepServices,
		},
	},
	{
		"sleep-ignore", "A,B", "User-Agents that neither wake a stack nor keep it awake", "none", kind{
			"patterns of User-Agents such as *bot*, with commas",
			func(s Settings) string { return strings.Join(s.SleepIgnore, ",") }, setSleepIgnore,
		},
	},
	{
		"canary", "SHARES", "what part of the clients a pushed release gets first", "off: all of them at once", kind{
			"growing shares of the clients with commas, such as 10%,50%; or off",
			func(s Settings) string { return s.Canary }, setCanary,
		},
	},
	{
		"canary-step", "TIME", "how long each share of a canary lasts", Brief(DefaultCanaryStep),
		timeKind(time.Second, 24*time.Hour, func(s *Settings) *time.Duration { return &s.CanaryStep }),
	},
	{
		"previews", "true", "which other branches get previews", "false: a push to another branch is refused", kind{
			"true, false, or patterns of branches such as feat/*, with commas",
			func(s Settings) string { return strings.Join(s.Previews, ",") }, setPreviews,
		},
	},
	{
		"previews-ttl", "TIME", "how long a preview stays after its last push", "7d",
		ageKind(minPreviewsTTL, maxPreviewsTTL, func(s *Settings) *time.Duration { return &s.PreviewsTTL }),
	},
	{
		"previews-max", "N", "previews at once; the longest unused one makes room", "10",
		numberKind(1, maxPreviewsMax, func(s *Settings) *int { return &s.PreviewsMax }),
	},
	{
		"previews-addons", "empty", "what new previews get for the stack's add-ons", "none", kind{
			"clone (copies of the data), empty (new ones), share (the same ones) or none",
			func(s Settings) string { return string(s.PreviewsAddons) }, setPreviewsAddons,
		},
	},
}

// SettingNames returns the names of all settings, in the order that people read
// them in.
func SettingNames() (names []string) {
	for _, s := range settings {
		names = append(names, s.Name)
	}
	return names
}

// Get returns the value of a setting as build:set accepts it. It is empty for a
// default and for an unknown name.
func (s Settings) Get(name string) string {
	for _, t := range settings {
		if t.Name == name {
			return t.get(s)
		}
	}
	return ""
}

// Set changes a setting; an empty value restores the default. The error names the
// rule that the value breaks; for an unknown name it is a NotFound.
func (s *Settings) Set(name, value string) error {
	for _, t := range settings {
		if t.Name == name {
			return t.set(s, name, value)
		}
	}
	return Errorf(NotFound, "there is no build setting %q", Clip(name, 60)).WithHint("use one of %s", strings.Join(SettingNames(), ", "))
}

// IsTrue reports whether a setting that may be unset is true.
func IsTrue(said *bool) bool { return said != nil && *said }

// Over returns s, with the values of below where s has its defaults.
func (s Settings) Over(below Settings) Settings {
	v, b := reflect.ValueOf(&s).Elem(), reflect.ValueOf(below)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			v.Field(i).Set(b.Field(i))
		}
	}
	return s
}

func setBranch(s *Settings, _, v string) error {
	// The rules of git check-ref-format that the pattern does not cover.
	if v != "" && (!branchRule.MatchString(v) || strings.Contains(v, "..") || strings.Contains(v, "//") || strings.HasSuffix(v, "/") || strings.HasSuffix(v, ".lock") || strings.HasSuffix(v, ".")) {
		return Errorf(Invalid, "%q is not a branch name", Clip(v, 60))
	}
	s.Branch = v
	return nil
}

func setHealth(s *Settings, _, v string) error {
	if v != "" && (!strings.HasPrefix(v, "/") || strings.ContainsAny(v, " \r\n\t\x00#") || len(v) > 1000) {
		return Errorf(Invalid, "health=%q is not a path", Clip(v, 60)).WithHint("use a path such as /healthz")
	}
	if !utf8.ValidString(v) {
		return Errorf(Invalid, "%q is not valid UTF-8", Clip(v, 60)).WithHint("write the byte with a percent sign, as in /caf%%E9")
	}
	s.Health = v
	return nil
}

func formatSize(n int64) string {
	switch {
	case n == 0:
		return ""
	case n%(1<<30) == 0:
		return strconv.FormatInt(n>>30, 10) + "G"
	}
	return strconv.FormatInt(n>>20, 10) + "M"
}

var sizeRule = regexp.MustCompile(`^([1-9][0-9]{0,6})([MGT])(?:I?B)?$`)

func setLogSize(s *Settings, name, v string) error {
	if v == "" {
		s.LogSize = 0
		return nil
	}
	m := sizeRule.FindStringSubmatch(strings.ToUpper(v))
	if m != nil {
		n, _ := strconv.ParseInt(m[1], 10, 64)
		n <<= map[string]int{"M": 20, "G": 30, "T": 40}[m[2]]
		if n <= 1<<40 {
			s.LogSize = n
			return nil
		}
	}
	return Errorf(Invalid, "%s=%q is not a size from 1M to 1T", name, Clip(v, 40)).WithHint("use a size such as 500M or 2G")
}

// FormatAge is the reverse of ParseAge, and empty for 0: "7d", "36h0m0s".
func FormatAge(d time.Duration) string {
	switch {
	case d == 0:
		return ""
	case d%(24*time.Hour) == 0:
		return strconv.Itoa(int(d/(24*time.Hour))) + "d"
	}
	return d.String()
}

// ageKind accepts ages (ParseAge) from least to most, but not 0, which is the default.
func ageKind(least, most time.Duration, field func(*Settings) *time.Duration) kind {
	bounds := fmt.Sprintf("a time from %s to %s", Brief(least), FormatAge(most))
	return kind{
		bounds,
		func(s Settings) string { return FormatAge(*field(&s)) },
		func(s *Settings, name, v string) error {
			if v == "" {
				*field(s) = 0
				return nil
			}
			d, err := ParseAge(v)
			if err != nil || d < least || d > most {
				return Errorf(Invalid, "%s=%q is not %s", name, Clip(v, 40), bounds).WithHint("use a time such as 12h or 30d")
			}
			*field(s) = d
			return nil
		},
	}
}

// numberKind accepts numbers from least to most; least is over 0, which is the default.
func numberKind(least, most int, field func(*Settings) *int) kind {
	bounds := fmt.Sprintf("a number from %d to %d", least, most)
	return kind{
		bounds,
		func(s Settings) string { return strings.TrimPrefix(strconv.Itoa(*field(&s)), "0") },
		func(s *Settings, name, v string) error {
			if v == "" {
				*field(s) = 0
				return nil
			}
			n, err := strconv.Atoi(v)
			if err != nil || n < least || n > most {
				return Errorf(Invalid, "%s=%q is not %s", name, Clip(v, 40), bounds)
			}
			*field(s) = n
			return nil
		},
	}
}

func pathKind(example string, field func(*Settings) *string) kind {
	return kind{
		"a path inside the repository",
		func(s Settings) string { return *field(&s) },
		func(s *Settings, _, v string) error {
			clean := path.Clean("/" + v)[1:]
			if v != "" && (clean == "" || strings.HasPrefix(v, "/") || strings.Contains("/"+v+"/", "/../") || strings.ContainsAny(v, "\x00\n")) {
				return Errorf(Invalid, "%q is not a path inside the repository", Clip(v, 60)).WithHint("use a path such as %s", example)
			}
			*field(s) = clean
			return nil
		},
	}
}

func setBuildArgs(s *Settings, name, v string) error {
	var out []string
	for w := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' }) {
		if !argRule.MatchString(w) {
			return Errorf(Invalid, "%s: %q is not NAME=VALUE", name, Clip(w, 60)).WithHint("for example: build-args=EDITION=lite,REGION=eu; use config:set for secrets, and for values with blanks")
		}
		arg, _, _ := strings.Cut(w, "=")
		out = slices.DeleteFunc(out, func(o string) bool { return strings.HasPrefix(o, arg+"=") })
		out = append(out, w)
	}
	s.BuildArgs = out
	return nil
}

// TagFields are what image-tag may contain, in braces. "tag" is the git tag that is
// deployed, or the commit.
var TagFields = []string{"commit", "tag", "branch", "deployment", "time"}

func setImageTag(s *Settings, name, v string) error {
	plain := v
	for _, f := range TagFields {
		plain = strings.ReplaceAll(plain, "{"+f+"}", "x")
	}
	if v != "" && (!tagRule.MatchString(v) || strings.ContainsAny(plain, "{}")) {
		return Errorf(Invalid, "%s=%q is not a tag", name, Clip(v, 60)).WithHint("for example: image-tag={branch}-{commit}; it may contain {%s}", strings.Join(TagFields, "}, {"))
	}
	s.ImageTag = v
	return nil
}

func patternKind(rule *regexp.Regexp, what string, field func(*Settings) *string) kind {
	return kind{
		what,
		func(s Settings) string { return *field(&s) },
		func(s *Settings, name, v string) error {
			if v != "" && !rule.MatchString(v) {
				return Errorf(Invalid, "%s=%q is not %s", name, Clip(v, 60), what)
			}
			*field(s) = v
			return nil
		},
	}
}

func listKind(rule *regexp.Regexp, one, all string, field func(*Settings) *[]string) kind {
	return kind{
		all,
		func(s Settings) string { return strings.Join(*field(&s), ",") },
		func(s *Settings, name, v string) error {
			var out []string
			for w := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' }) {
				if !rule.MatchString(w) {
					return Errorf(Invalid, "%s: %q is not %s", name, Clip(w, 60), one)
				}
				if !slices.Contains(out, w) {
					out = append(out, w)
				}
			}
			*field(s) = out
			return nil
		},
	}
}

func lineKind(field func(*Settings) *string) kind {
	return kind{
		"one line of at most 4,000 bytes",
		func(s Settings) string { return *field(&s) },
		func(s *Settings, name, v string) error {
			if strings.ContainsAny(v, "\x00\r\n") || len(v) > maxSettingLine {
				return Errorf(Invalid, "%s must be one line of at most 4,000 bytes", name).WithHint("put longer commands into a script in the repository")
			}
			if err := CheckCommand(v); err != nil {
				return err
			}
			*field(s) = strings.TrimSpace(v)
			return nil
		},
	}
}

func boolKind(field func(*Settings) **bool) kind {
	return kind{
		"true or false",
		func(s Settings) string {
			if said := *field(&s); said != nil {
				return strconv.FormatBool(*said)
			}
			return ""
		},
		func(s *Settings, name, v string) error {
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

// timeKind accepts times from least to most, but not 0, which is the default.
func timeKind(least, most time.Duration, field func(*Settings) *time.Duration) kind {
	bounds := fmt.Sprintf("a time from %s to %s", Brief(max(least, time.Millisecond)), Brief(most))
	return kind{
		bounds,
		func(s Settings) string {
			if d := *field(&s); d != 0 {
				return d.String()
			}
			return ""
		},
		func(s *Settings, name, v string) error {
			if v == "" {
				*field(s) = 0
				return nil
			}
			d, err := time.ParseDuration(v)
			if err != nil || d < least || d > most || d == 0 {
				return Errorf(Invalid, "%s=%q is not %s", name, Clip(v, 40), bounds).WithHint("use a time such as 45s or 2m")
			}
			*field(s) = d
			return nil
		},
	}
}

// ageRule matches the weeks and days in front of what time.ParseDuration takes.
var ageRule = regexp.MustCompile(`^(?:([0-9]{1,3})w)?(?:([0-9]{1,5})d)?(.*)$`)

// maxAgeDays keeps the weeks and days of an age far from the end of time.Duration.
const maxAgeDays = 36_500

// ParseAge understands what time.ParseDuration does, with weeks and days in front: "36h",
// "7d", "2w", "1d12h".
func ParseAge(v string) (d time.Duration, err error) {
	m := ageRule.FindStringSubmatch(v)
	if m == nil {
		return 0, Errorf(Invalid, "%q is not a time", Clip(v, 40))
	}
	weeks, _ := strconv.Atoi(m[1]) // 0 if there are none
	days, _ := strconv.Atoi(m[2])
	if days += 7 * weeks; days > maxAgeDays {
		return 0, Errorf(Invalid, "%q is too long a time", Clip(v, 40))
	}
	if m[3] != "" || v == "" {
		if d, err = time.ParseDuration(m[3]); err != nil {
			return 0, err
		}
	}
	return d + time.Duration(days)*24*time.Hour, nil
}

// Brief is a duration without units that are zero: "1h" and not "1h0m0s".
func Brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
