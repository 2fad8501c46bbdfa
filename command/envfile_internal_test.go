package command

import (
	"strings"
	"testing"
	"unicode/utf8"

	"mesh"
)

func TestConfig_ExportImportRoundTrip(t *testing.T) {
	t.Parallel()
	cfg := mesh.Config{}
	for name, v := range map[string]string{
		"EMPTY": "", "PLAIN": "hello", "BLANKS": "  a  b ", "QUOTES": `it's "quoted" \n not`, "LINES": "one\ntwo\n\nthree\n",
		"DOLLAR": "$HOME ${X} `id` $(id)", "HASH": "a #b", "EQUALS": "a=b=c", "UTF8": "größe ✓", "CR": "a\r\nb", "TAB": "a\tb", "BACKSLASH": `c:\new\table\`,
	} {
		cfg[name] = mesh.NewSecret(v)
	}
	for _, format := range []string{formatShell, formatEnvfile, formatJSON} {
		text, err := exportConfig(cfg, format)
		if err != nil {
			t.Fatal(err)
		}
		if format == formatShell {
			// In single quotes a CR LF is data, but the reader takes CR LF for a line
			// end, as in files from other systems.
			text = strings.ReplaceAll(text, "a\r\nb", "a\nb")
		}
		back, err := ReadConfig(text)
		if err != nil {
			t.Fatalf("%s: %v\n%s", format, err, text)
		}
		for name, v := range cfg {
			want := v.Reveal()
			if format == formatShell && name == "CR" {
				want = "a\nb"
			}
			if got := back[name].Reveal(); got != want {
				t.Errorf("%s: %s is %q, want %q", format, name, got, want)
			}
		}
	}
}

func TestParseConfig_AsPeopleWriteIt(t *testing.T) {
	t.Parallel()
	got, err := ReadConfig("\ufeff# comment\n\n  export A=1 \nB = two words # remark\nC='x'\"y\"  # z\nD=a#b\nE=\nF=\"l1\nl2\"\r\nG=last")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"A": "1", "B": "two words", "C": "xy", "D": "a#b", "E": "", "F": "l1\nl2", "G": "last"} {
		if v := got[name].Reveal(); v != want {
			t.Errorf("%s = %q, want %q", name, v, want)
		}
	}
	for text, want := range map[string]string{
		"A=1\nnonsense here\n":    "line 2: it has no =",
		"A='x\n":                  "line 1: a quote (') is not closed",
		"A=1\nB=\"2\n3\nC=4\n":    `line 2: a quote (") is not closed`,
		"A='x' y\n":               "line 1: text follows the closing quote",
		"A=1\nA=2\n":              "line 2: A is set twice",
		"1A=2\n":                  `"1A" is not a config var name`,
		"PORT=80\n":               "PORT cannot be set",
		"{\"A\": 1}":              "not a JSON object of strings",
		"A=\"x\ny\"\nB=1\nsecret": "line 4: it has no =",
	} {
		if _, err := ReadConfig(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add("A=1\nB='x'\n")
	f.Add("export A=\"x\\n\"\n# c\n")
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := ReadConfig(text)
		if err != nil {
			return
		}
		for _, format := range []string{formatEnvfile, formatJSON} {
			for _, v := range cfg {
				if !utf8.ValidString(v.Reveal()) {
					return
				}
			}
			out, err := exportConfig(cfg, format)
			if err != nil {
				t.Fatal(err)
			}
			back, err := ReadConfig(out)
			if err != nil || !back.Equal(cfg) {
				t.Fatalf("%s: %q is read back as something else: %v", format, out, err)
			}
		}
	})
}

// As dotenv for Node, python-dotenv, godotenv and docker compose all read it.
func TestParseConfig_Blanks(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"V = \"quoted value\"":           "quoted value",
		"V= 'one'":                       "one",
		"V\t=\t\"x\"\t# a comment":       "x",
		"V=val\t# a comment":             "val",
		"V=val # a comment":              "val",
		"V= # a comment":                 "",
		"V=a#b":                          "a#b",
		"export\tV=1":                    "1",
		"export  V = 1":                  "1",
		" \t V=1":                        "1",
		"V=\r\n":                         "",
		"V=x\r\n":                        "x",
		"V=\"a\r\nb\"\r\n":               "a\nb",
		"V= \"multi\nline\" # end\n":     "multi\nline",
		"V=\"tab\\tnewline\\n\"":         "tab\tnewline\n",
		"V='tab\\t'":                     "tab\\t",
		"V = a=b":                        "a=b",
		"V=it's":                         "it's",
		"\ufeffV=1":                      "1",
		"\ufeff{\"V\": \" kept \"}":      " kept ",
		"V=\"$HOME\"":                    "$HOME",
		"V='a # b'":                      "a # b",
		"exported=2\nV=3\nexport_me = 4": "3",
	} {
		got, err := ReadConfig(text)
		if err != nil || got["V"].Reveal() != want {
			t.Errorf("%q: %q, %v; want %q", text, got["V"].Reveal(), err, want)
		}
	}
	for text, want := range map[string]string{
		"A=1\nV=caf\xe9":          "line 2 is not valid UTF-8",
		"{\"V\": \"caf\xe9\"}":    "line 1 is not valid UTF-8",
		"\xff\xfeV\x00=\x001\x00": "standard input is UTF-16",
	} {
		if _, err := ReadConfig(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
