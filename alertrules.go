package mesh

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// AlertRules decide what of a stack becomes an alert. In the zero value every rule has
// its default; RuleOff turns a rule off. AlertRuleList lists them.
type AlertRules struct {
	Deploy   int           // failed deployments and rollbacks: 0 on, RuleOff off
	Crash    int           // crashes in a row
	OOM      int           // kills for lack of memory: 0 on, RuleOff off
	Missing  time.Duration // how long an instance may be down without a crash
	Errors   float64       // share of requests answered with 5xx, from 0 to 1
	Slow     time.Duration // what 95 of 100 requests may take
	Requests int           // requests a minute, below which neither of these two counts
	For      time.Duration // how long errors, slow answers and memory use must last
	Memory   float64       // share of an instance's memory limit, from 0 to 1
	Cert     time.Duration // rest of a certificate's life
}

// RuleOff is the value of a rule that is off.
const RuleOff = -1

// Defaults of AlertRules. Slow has none: an app that streams or waits for events is slow
// by design.
const (
	DefaultAlertCrash    = 3
	DefaultAlertMissing  = 2 * time.Minute
	DefaultAlertErrors   = 0.05
	DefaultAlertRequests = 20
	DefaultAlertFor      = 2 * time.Minute
	DefaultAlertMemory   = 0.9
	DefaultAlertCert     = 14 * 24 * time.Hour
)

// Effective returns the rules with the defaults filled in. A rule that is off is
// negative.
func (r AlertRules) Effective() AlertRules {
	fill := func(v, other int) int {
		if v == 0 {
			return other
		}
		return v
	}
	r.Crash, r.Requests = fill(r.Crash, DefaultAlertCrash), fill(r.Requests, DefaultAlertRequests)
	for _, d := range []struct {
		at    *time.Duration
		other time.Duration
	}{{&r.Missing, DefaultAlertMissing}, {&r.Slow, RuleOff}, {&r.For, DefaultAlertFor}, {&r.Cert, DefaultAlertCert}} {
		if *d.at == 0 {
			*d.at = d.other
		}
	}
	if r.Errors == 0 {
		r.Errors = DefaultAlertErrors
	}
	if r.Memory == 0 {
		r.Memory = DefaultAlertMemory
	}
	return r
}

// NoAlerts returns rules that are all off, for a stack that nobody needs to watch.
func NoAlerts() AlertRules {
	return AlertRules{Deploy: RuleOff, Crash: RuleOff, OOM: RuleOff, Missing: RuleOff, Errors: RuleOff, Memory: RuleOff, Cert: RuleOff}
}

// AlertRule is one name that alerts:set accepts. The table of all of them is what parses
// a value, and what help is printed from.
type AlertRule struct {
	Name    string
	Value   string // stands for the value in help: "TIME"
	Help    string // what it is
	Default string // as alerts:set accepts it
	accepts string
	get     func(AlertRules) string
	set     func(r *AlertRules, v string) bool // false: v is not what it accepts
}

// Accepts describes the values that the rule accepts.
func (r AlertRule) Accepts() string { return r.accepts }

const ruleOff = "off"

var alertRules = []AlertRule{
	switchRule("deploy", "failed deployments and rollbacks", func(r *AlertRules) *int { return &r.Deploy }),
	countRule("crash", "crashes of an instance in a row", DefaultAlertCrash, 2, 1000, true, func(r *AlertRules) *int { return &r.Crash }),
	switchRule("oom", "instances killed because memory ran out", func(r *AlertRules) *int { return &r.OOM }),
	spanRule("missing", "how long an instance may be down without crashing", "2m", 10*time.Second, 24*time.Hour, true, func(r *AlertRules) *time.Duration { return &r.Missing }),
	shareRule("5xx", "share of requests answered with 5xx", "5%", func(r *AlertRules) *float64 { return &r.Errors }),
	spanRule("p95", "time within which 95 of 100 requests must be answered", ruleOff, 10*time.Millisecond, time.Minute, true, func(r *AlertRules) *time.Duration { return &r.Slow }),
	countRule("min-requests", "requests a minute, below which 5xx and p95 do not count", DefaultAlertRequests, 1, 1_000_000, false, func(r *AlertRules) *int { return &r.Requests }),
	spanRule("for", "how long 5xx, p95 and memory must last", "2m", 15*time.Second, time.Hour, false, func(r *AlertRules) *time.Duration { return &r.For }),
	shareRule("memory", "share of an instance's memory limit in use", "90%", func(r *AlertRules) *float64 { return &r.Memory }),
	spanRule("cert", "how long before a certificate expires", "14d", time.Hour, 365*24*time.Hour, true, func(r *AlertRules) *time.Duration { return &r.Cert }),
}

// AlertRuleList returns all rules, in the order that people read them in.
func AlertRuleList() []AlertRule { return slices.Clone(alertRules) }

// Get returns the value of a rule as alerts:set accepts it: its default if it is not set,
// and "" for an unknown name.
func (r AlertRules) Get(name string) string {
	for _, t := range alertRules {
		if t.Name == name {
			if v := t.get(r); v != "" {
				return v
			}
			return t.Default
		}
	}
	return ""
}

// IsSet reports whether a rule is not at its default.
func (r AlertRules) IsSet(name string) bool {
	return slices.ContainsFunc(alertRules, func(t AlertRule) bool { return t.Name == name && t.get(r) != "" })
}

// Set changes a rule; an empty value restores the default. The error says what the rule
// accepts; for an unknown name it lists the names there are.
func (r *AlertRules) Set(name, value string) error {
	var names []string
	for _, t := range alertRules {
		names = append(names, t.Name)
		if t.Name != name {
			continue
		}
		if value == t.Default {
			value = ""
		}
		if !t.set(r, strings.ToLower(strings.TrimSpace(value))) {
			return Errorf(Invalid, "%s=%q is not %s", name, Clip(value, 40), t.accepts).WithHint("for example: %s=%s", name, t.Default)
		}
		return nil
	}
	return Errorf(Invalid, "there is no alert rule %q", Clip(name, 60)).WithHint("use one of %s", strings.Join(names, ", "))
}

func switchRule(name, help string, field func(*AlertRules) *int) AlertRule {
	return AlertRule{
		name, "on|off", help, "on", "on or off",
		func(r AlertRules) string {
			if *field(&r) < 0 {
				return ruleOff
			}
			return ""
		},
		func(r *AlertRules, v string) bool {
			switch v {
			case "", "on", "true":
				*field(r) = 0
			case ruleOff, "false":
				*field(r) = RuleOff
			default:
				return false
			}
			return true
		},
	}
}

func countRule(name, help string, other, least, most int, mayOff bool, field func(*AlertRules) *int) AlertRule {
	return AlertRule{
		name, "N", help, strconv.Itoa(other), fmt.Sprintf("a number from %d to %d", least, most) + orOff(mayOff),
		func(r AlertRules) string {
			switch v := *field(&r); {
			case v < 0:
				return ruleOff
			case v > 0:
				return strconv.Itoa(v)
			}
			return ""
		},
		func(r *AlertRules, v string) bool {
			n, err := strconv.Atoi(v)
			switch {
			case v == "":
				n = 0
			case v == ruleOff && mayOff:
				n = RuleOff
			case err != nil || n < least || n > most:
				return false
			}
			*field(r) = n
			return true
		},
	}
}

func spanRule(name, help, other string, least, most time.Duration, mayOff bool, field func(*AlertRules) *time.Duration) AlertRule {
	return AlertRule{
		name, "TIME", help, other, fmt.Sprintf("a time from %s to %s", days(least), days(most)) + orOff(mayOff),
		func(r AlertRules) string {
			switch v := *field(&r); {
			case v < 0:
				return ruleOff
			case v > 0:
				return days(v)
			}
			return ""
		},
		func(r *AlertRules, v string) bool {
			d, err := ParseAge(v)
			switch {
			case v == "":
				d = 0
			case v == ruleOff && mayOff:
				d = RuleOff
			case err != nil || d < least || d > most:
				return false
			}
			*field(r) = d
			return true
		},
	}
}

func shareRule(name, help, other string, field func(*AlertRules) *float64) AlertRule {
	return AlertRule{
		name, "N%", help, other, "a share from 0.1% to 100%, or off",
		func(r AlertRules) string {
			switch v := *field(&r); {
			case v < 0:
				return ruleOff
			case v > 0:
				return Percent(v)
			}
			return ""
		},
		func(r *AlertRules, v string) bool {
			n, err := strconv.ParseFloat(strings.TrimSuffix(v, "%"), 64)
			switch {
			case v == "":
				n = 0
			case v == ruleOff:
				n = RuleOff
			case err != nil || math.IsNaN(n) || n < 0.1 || n > 100:
				return false
			default:
				n /= 100
			}
			*field(r) = n
			return true
		},
	}
}

func orOff(may bool) string {
	if may {
		return ", or off"
	}
	return ""
}

// days is Brief, with whole days as such: "14d".
func days(d time.Duration) string {
	if d >= 24*time.Hour && d%(24*time.Hour) == 0 {
		return strconv.Itoa(int(d/(24*time.Hour))) + "d"
	}
	return Brief(d)
}

// Percent formats a share from 0 to 1 for people, with at most one decimal: "5%", "0.5%".
func Percent(share float64) string {
	return strconv.FormatFloat(math.Round(share*1000)/10, 'f', -1, 64) + "%"
}
