package mesh

import (
	"cmp"
	"slices"
	"strings"
)

// Mask stands in output for what must not be shown.
const Mask = "••••••"

// How long the value of a config var, or a line of it, must be to be masked in output,
// in bytes. Shorter ones ("1", "true", "web") are not secret, and masking them would
// make every line unreadable.
const (
	minHidden        = 6
	minHiddenTelling = 4 // if the name of the variable suggests a secret
)

// Hidden returns what to mask in the output of programs that get the config vars: each
// value, line by line, for a key file appears that way. Parts for which spare, if it is
// not nil, returns true are left out unless the name of their variable suggests a
// secret.
func (c Config) Hidden(spare func(part string) bool) []string {
	var out []string
	for _, name := range c.Names() {
		telling := NameTells(name)
		for part := range strings.Lines(c[name].Reveal()) {
			part = strings.TrimSpace(part)
			if len(part) >= minHiddenTelling && telling || len(part) >= minHidden && (spare == nil || !spare(part)) {
				out = append(out, part)
			}
		}
	}
	return out
}

// NewMasker returns a replacer that masks values, the longest first: one may contain
// another. Each string of drop is removed.
func NewMasker(values []string, drop ...string) *strings.Replacer {
	values = slices.Clone(values)
	slices.SortFunc(values, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b))
	})
	var pairs []string
	for _, d := range drop {
		pairs = append(pairs, d, "")
	}
	for _, v := range slices.Compact(values) {
		pairs = append(pairs, v, Mask)
	}
	return strings.NewReplacer(pairs...)
}

// tellingWords are parts of the names of variables whose values are secret.
var tellingWords = []string{"SECRET", "TOKEN", "KEY", "PASS", "PWD", "CREDENTIAL", "AUTH", "DSN", "DATABASE_URL", "DB_URL", "REDIS_URL", "MONGO_URL", "MONGODB_URI", "AMQP_URL"}

// NameTells reports whether the name of a variable suggests that its value is secret.
func NameTells(name string) bool {
	name = strings.NewReplacer("AUTHOR", "", "BYPASS", "", "COMPASS", "").Replace(strings.ToUpper(name))
	return slices.ContainsFunc(tellingWords, func(w string) bool { return strings.Contains(name, w) })
}
