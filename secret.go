package mesh

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
)

// Secret is a value that must not be shown: a config var, a password. Every verb of
// fmt, slog and every encoder that honours encoding.TextMarshaler show a mask. The
// value is behind a pointer, so that a Secret in an unexported field, where fmt may
// not call methods, at worst prints an address. The zero Secret is the empty string.
type Secret struct{ value *string }

// NewSecret makes a secret of s.
func NewSecret(s string) Secret { return Secret{&s} }

// Reveal is the only way to get the value.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// Equal reports whether both have the same value.
func (s Secret) Equal(o Secret) bool { return s.Reveal() == o.Reveal() }

// Format prints a mask whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Mask) }

// MarshalText returns a mask.
func (s Secret) MarshalText() ([]byte, error) { return []byte(Mask), nil }

// LogValue returns a mask.
func (s Secret) LogValue() slog.Value { return slog.StringValue(Mask) }

// Config is the config vars of a stack, by name. Do not change a Config that has
// been handed over: make a new one with With or Clone.
type Config map[string]Secret

// Names returns the names in order.
func (c Config) Names() []string { return slices.Sorted(maps.Keys(c)) }

// Clone returns a copy that may be changed.
func (c Config) Clone() Config {
	if c == nil {
		return Config{}
	}
	return maps.Clone(c)
}

// Over returns the vars of c, and those of below whose names c does not have.
func (c Config) Over(below Config) Config {
	out := below.Clone()
	maps.Copy(out, c)
	return out
}

// Without returns the vars of c whose names o does not have.
func (c Config) Without(o Config) Config {
	out := c.Clone()
	maps.DeleteFunc(out, func(name string, _ Secret) bool { _, has := o[name]; return has })
	return out
}

// Equal reports whether both have the same names with the same values.
func (c Config) Equal(o Config) bool { return maps.EqualFunc(c, o, Secret.Equal) }

// Size is the length of all names and values, in bytes.
func (c Config) Size() (n int) {
	for name, v := range c {
		n += len(name) + len(v.Reveal())
	}
	return n
}

// Fingerprint is equal for equal configs, and tells nothing of the values to who does not
// know them all: it is for comparing one with a later one.
func (c Config) Fingerprint() string {
	h := sha256.New()
	for _, name := range c.Names() {
		_, _ = fmt.Fprintf(h, "%d %s %d %s\n", len(name), name, len(c[name].Reveal()), c[name].Reveal())
	}
	return hex.EncodeToString(h.Sum(nil))
}

// ConfigChange is a batch of changes of config vars: first Set, then Unset.
type ConfigChange struct {
	Set        Config
	Unset      []string
	Replace    bool   // vars that are not in Set are unset as well
	If         string // only if the config has this Fingerprint; empty: in any case
	RecordOnly bool   // the next release takes them; otherwise they become one
}
