package mesh

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Bounds of Settings.Sleep, and what previews have by default.
const (
	minSleep     = 10 * time.Second
	maxSleep     = 30 * 24 * time.Hour
	PreviewSleep = 30 * time.Minute
	sleepOff     = -1 // Settings.Sleep that is off, although a preview sleeps by default
)

// SleepAfter is how long a stack goes without a request before it sleeps; 0: it never does.
func (s Stack) SleepAfter() time.Duration {
	d := s.Effective().Sleep
	switch {
	case d == 0 && s.Preview != nil:
		return PreviewSleep
	case d < 0:
		return 0
	}
	return d
}

// Sleeps reports whether a service sleeps with the stack: web, and what has requests or all
// others if sleep-services=all.
func (s Stack) Sleeps(svc ServiceName) bool {
	return svc == Web || s.Effective().SleepServices == sleepAll
}

// Awake returns how many instances of a release should run now: all, or, while the stack
// sleeps, those of services that do not.
func (s Stack) Awake(f Formation) Formation {
	if s.Asleep.IsZero() {
		return f
	}
	out := Formation{}
	for svc, n := range f {
		if !s.Sleeps(svc) {
			out[svc] = n
		}
	}
	return out
}

// What sleep-services may be.
const (
	sleepWeb = "web"
	sleepAll = "all"
)

func setSleep(s *Settings, name, v string) error {
	switch v {
	case "":
		s.Sleep = 0
		return nil
	case "off", "never", "false", "no":
		s.Sleep = sleepOff
		return nil
	}
	d, err := ParseAge(v)
	if err != nil || d < minSleep || d > maxSleep {
		return Errorf(Invalid, "%s=%q is not a time from %s to %s, or off", name, Clip(Visible(v), 40), Brief(minSleep), FormatAge(maxSleep)).WithHint("use a time such as 30m or 2h")
	}
	s.Sleep = d
	return nil
}

func formatSleep(s Settings) string {
	if s.Sleep == sleepOff {
		return "off"
	}
	return FormatAge(s.Sleep)
}

func setSleepServices(s *Settings, name, v string) error {
	switch v {
	case "", sleepAll:
		s.SleepServices = v
	case sleepWeb:
		s.SleepServices = ""
	default:
		return Errorf(Invalid, "%s=%q is neither web nor all", name, Clip(Visible(v), 40))
	}
	return nil
}

var agentRule = regexp.MustCompile(`^[^,\x00-\x1f]{1,100}$`)

// MatchAgent reports whether a User-Agent matches one of the patterns of sleep-ignore, in
// which * stands for any text. Upper and lower case are the same.
func MatchAgent(patterns []string, agent string) bool {
	flat := strings.NewReplacer("/", "\x01")
	agent = flat.Replace(strings.ToLower(agent))
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(flat.Replace(strings.ToLower(p)), agent)
		return ok && err == nil
	})
}

func setSleepIgnore(s *Settings, name, v string) error {
	var out []string
	for w := range strings.SplitSeq(v, ",") {
		if w = strings.TrimSpace(w); w == "" {
			continue
		}
		if _, err := path.Match(w, ""); err != nil || !agentRule.MatchString(w) {
			return Errorf(Invalid, "%s: %q is not a pattern of User-Agents", name, Clip(Visible(w), 60)).WithHint("use patterns with commas: sleep-ignore=*bot*,UptimeRobot/*")
		}
		if !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	s.SleepIgnore = out
	return nil
}
