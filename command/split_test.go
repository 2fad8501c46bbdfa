package command

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"mesh"
)

func TestSplit(t *testing.T) {
	t.Parallel()
	for line, want := range map[string][]string{
		"":                         nil,
		"  \t\n ":                  nil,
		"a b\tc\nd":                {"a", "b", "c", "d"},
		`config:set A='x y'`:       {"config:set", "A=x y"},
		`"a b"'c d'e\ f`:           {"a bc de f"},
		`''`:                       {""},
		`a "" b`:                   {"a", "", "b"},
		`"\$\"\\\x` + "`\\`" + `"`: {`$"\\x` + "``"},
		"\"a\\\nb\"":               {"ab"},
		"a\\\nb":                   {"ab"},
		`$HOME; rm | #x &`:         {"$HOME;", "rm", "|", "#x", "&"},
		`'a\b'`:                    {`a\b`},
		"'a\nb'":                   {"a\nb"},
		`run -- sh -c 'a && b'`:    {"run", "--", "sh", "-c", "a && b"},
	} {
		got, err := Split(line)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("Split(%q) = %q, %v, want %q", line, got, err, want)
		}
	}
	for _, line := range []string{`'`, `"`, `a 'b`, `a "b\"`, `a\`, `"\`} {
		if got, err := Split(line); !errors.Is(err, mesh.Invalid) {
			t.Errorf("Split(%q) = %q, %v, want invalid", line, got, err)
		}
	}
}

func TestSplit_Starts(t *testing.T) {
	t.Parallel()
	line := ` run  -e  A=1 --  'sh' "-c" \ x`
	words, starts, err := split(line)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range starts {
		got = append(got, line[i:])
	}
	want := []string{`run  -e  A=1 --  'sh' "-c" \ x`, `-e  A=1 --  'sh' "-c" \ x`, `A=1 --  'sh' "-c" \ x`, `--  'sh' "-c" \ x`, `'sh' "-c" \ x`, `"-c" \ x`, `\ x`}
	if len(words) != len(starts) || !slices.Equal(got, want) {
		t.Errorf("words %q begin at %q", words, got)
	}
}

// FuzzSplit checks that in a line that can be split each word starts where Split says,
// and that Join makes a line that splits into the same words.
func FuzzSplit(f *testing.F) {
	for _, s := range []string{`a 'b c' "d\"e" f\ g`, "''", "\\\n", "\"\\\n\"", "a\x00b", "\xff 'ä'", "\\\n a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if words, err := Split(Join(strings.Split(line, "\x01"))); err != nil || !slices.Equal(words, strings.Split(line, "\x01")) {
			t.Errorf("Join of %q splits into %q, %v", strings.Split(line, "\x01"), words, err)
		}
		words, starts, err := split(line)
		if err != nil {
			return
		}
		if len(words) != len(starts) {
			t.Fatalf("%q: %d words, %d starts", line, len(words), len(starts))
		}
		for i, at := range starts {
			rest, err := Split(line[at:])
			if err != nil || !slices.Equal(rest, words[i:]) {
				t.Errorf("%q from word %d on is %q: %q, %v", line, i, line[at:], rest, err)
			}
		}
		if again, err := Split(Join(words)); err != nil || !slices.Equal(again, words) {
			t.Errorf("%q → %q → %q, %v", line, words, again, err)
		}
	})
}

func TestParseScale(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]mesh.Scale{
		"web=2": {Service: "web", To: 2}, "web=0": {Service: "web"}, "web+1": {Service: "web", To: 1, Relative: true},
		"web-1": {Service: "web", To: -1, Relative: true}, "my-worker-2": {Service: "my-worker", To: -2, Relative: true}, "my-worker=3": {Service: "my-worker", To: 3},
	} {
		if got, ok := parseScale(in); !ok || got != want {
			t.Errorf("parseScale(%q) = %+v, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", "web", "web=", "=1", "+1", "-1", "web=x", "web=-1", "web=+1", "web--1", "web++1", "web= 1", "Web=1", "web=1=2", "web=99999999999999999999"} {
		if got, ok := parseScale(in); ok {
			t.Errorf("parseScale(%q) = %+v", in, got)
		}
	}
}

func TestTable_IsSane(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, d := range table() {
		name := d.name()
		if seen[name] {
			t.Errorf("%s is set twice", name)
		}
		seen[name] = true
		if d.topic == "" || d.short == "" || d.run == nil {
			t.Errorf("%s lacks topic, short or run", name)
		}
		if strings.HasSuffix(d.short, ".") {
			t.Errorf("%s: the short text ends with a full stop, which help adds", name)
		}
		if d.min > d.max {
			t.Errorf("%s wants from %d to %d arguments", name, d.min, d.max)
		}
		if d.max > 0 && d.args == "" || d.min > 0 && strings.HasPrefix(d.args, "[") && d.topic != "run" {
			t.Errorf("%s: the usage line %q does not show its arguments", name, d.usage())
		}
		// Commands that change something need more than the right to look, or check
		// rights themselves.
		writer := slices.Contains([]string{"set", "unset", "create", "destroy", "restart", "start", "stop", "cancel", "add", "remove", "import", "delete", "update", "rename"}, d.verb) ||
			slices.Contains([]string{"run", "rollback", "deploy", "enter"}, d.topic)
		if writer && !d.quiet && d.access == mesh.AccessRead {
			t.Errorf("%s changes something and needs %s only", name, d.access)
		}
		// No other word leads to this command.
		if got, rest, err := find([]string{d.topic, d.verb}); d.verb != "" && (err != nil || got.name() != name || len(rest) != 0) {
			t.Errorf("%q finds %v, %v", d.topic+" "+d.verb, got, err)
		}
		if got, rest, err := find([]string{name}); err != nil || got.name() != name || len(rest) != 0 {
			t.Errorf("%q finds %v, %v", name, got, err)
		}
	}
	for name, also := range topics {
		if !slices.ContainsFunc(table(), func(d *definition) bool { return d.topic == name }) {
			t.Errorf("synonyms for %s, which is no topic", name)
		}
		for _, word := range also {
			if topic(word) != name || slices.ContainsFunc(table(), func(d *definition) bool { return d.topic == word }) {
				t.Errorf("%s is not a synonym of %s alone", word, name)
			}
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"config:set A=1": "config:set A=1", "config set A=1": "config:set A=1", "config A": "config A", "config:list": "config", "app:info": "stacks:info",
		"apps": "stacks", "builds:show 3": "deployments:show 3", "keys add x": "ssh-keys:add x", "log -t": "logs -t", "endpoint add h": "domains:add h",
		"run ps": "run ps", "stacks:": "stacks", "config list": "config", "rollback v1": "rollback v1",
	} {
		d, rest, err := find(strings.Fields(line))
		if err != nil || strings.TrimSpace(d.name()+" "+strings.Join(rest, " ")) != want {
			t.Errorf("%q finds %v %q, %v", line, d, rest, err)
		}
	}
	for line, hint := range map[string]string{
		"confg:set A=1": "config:set", "config:st": "config:set", "stack:inof": "stacks:info", "rolback": "rollback", "lgos": "logs", "ps:scael": "ps:scale",
		"xyzzyxyzzyxyzzy": "list all", "config:": "", ":": "list all", "config:nonsensical-verb": "ssh mesh help config",
	} {
		d, _, err := find(strings.Fields(line))
		if hint == "" {
			if err != nil {
				t.Errorf("%q: %v", line, err)
			}
			continue
		}
		var e *mesh.Error
		if !errors.As(err, &e) || e.Kind != mesh.Invalid || !strings.Contains(strings.ToLower(e.Hint), hint) {
			t.Errorf("%q finds %v, %v (%+v), want a hint at %q", line, d, err, e, hint)
		}
	}
	if _, _, err := find([]string{""}); !errors.Is(err, mesh.Invalid) {
		t.Errorf("an empty word finds %v", err)
	}
}
