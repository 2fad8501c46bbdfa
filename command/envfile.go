package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"mesh"
)

// The formats of config:export. config:import reads all but the last back without loss.
const (
	formatShell       = "shell"       // export NAME='value', for eval
	formatEnvfile     = "envfile"     // NAME="value" with \n for a line end, as dotenv libraries read it
	formatJSON        = "json"        // {"NAME": "value"}
	formatFingerprint = "fingerprint" // a hash, for config:import --if
)

func runConfigExport(_ context.Context, c *call) error {
	format, _ := c.flags.GetString("format")
	if format == "exports" { // Dokku's name
		format = formatShell
	}
	if format == formatFingerprint {
		c.say("%s\n", c.stack.Config.Fingerprint())
		return nil
	}
	text, err := exportConfig(c.stack.Config, format)
	if err != nil {
		return err
	}
	if text == "" && format != formatShell && format != formatEnvfile {
		return c.usage("there is no format %q; use shell, envfile or json", mesh.Clip(format, 40))
	}
	_, err = io.WriteString(c.Stdout, text)
	return err
}

// plainValues returns the values of config vars, which JSON must be able to hold.
func plainValues(cfg mesh.Config) (map[string]string, error) {
	plain := map[string]string{}
	for name, v := range cfg {
		if err := validJSON(name, v); err != nil {
			return nil, err
		}
		plain[name] = v.Reveal()
	}
	return plain, nil
}

func exportConfig(cfg mesh.Config, format string) (string, error) {
	var b strings.Builder
	switch format {
	case formatJSON:
		plain, err := plainValues(cfg)
		if err != nil {
			return "", err
		}
		data, err := json.MarshalIndent(plain, "", "  ")
		return string(data) + "\n", err
	case formatShell:
		for _, name := range cfg.Names() {
			fmt.Fprintf(&b, "export %s='%s'\n", name, strings.ReplaceAll(cfg[name].Reveal(), "'", `'\''`))
		}
	case formatEnvfile:
		escape := strings.NewReplacer("\\", `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "$", `\$`, "`", "\\`")
		for _, name := range cfg.Names() {
			fmt.Fprintf(&b, "%s=\"%s\"\n", name, escape.Replace(cfg[name].Reveal()))
		}
	}
	return b.String(), nil
}

// validJSON returns an error for a value that JSON would change.
func validJSON(name string, v mesh.Secret) error {
	if utf8.ValidString(v.Reveal()) {
		return nil
	}
	return mesh.Errorf(mesh.Invalid, "the value of %s is not valid UTF-8, so it cannot be JSON", name).WithHint("use config:get, or config:export --format shell")
}

func runConfigImport(ctx context.Context, c *call) error {
	if c.TTY {
		return mesh.Errorf(mesh.Invalid, "the config vars must come from standard input, which is a terminal").
			WithHint("ssh mesh config:import -a %s < .env", c.stack.Name)
	}
	data, err := c.text("the config vars", maxValue)
	if err != nil {
		return err
	}
	set, err := ReadConfig(data)
	if err != nil {
		return err
	}
	change := mesh.ConfigChange{Set: set}
	change.Replace, _ = c.flags.GetBool("replace")
	change.If, _ = c.flags.GetString("if")
	if len(set) == 0 && !change.Replace {
		return mesh.Errorf(mesh.Invalid, "no config vars on standard input").WithHint("ssh mesh config:import -a %s < .env", c.stack.Name)
	}
	if change.Replace {
		if d := c.stack.Config.Changes(set); !d.Empty() {
			c.tell("%s: %s\n", c.stack.Name, d)
		}
		return c.changeConfig(ctx, change, "changed")
	}
	return c.changeConfig(ctx, change, "set")
}

// ReadConfig parses the output of exportConfig, and .env files as people write them:
// comments, blank lines, "export", values in either kind of quotes, over several lines
// if necessary, or unquoted to the end of the line. It expands nothing.
func ReadConfig(text string) (mesh.Config, error) {
	set := mesh.Config{}
	text, err := plainText(text)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(strings.TrimSpace(text), "{") {
		var plain map[string]string
		if err := json.Unmarshal([]byte(text), &plain); err != nil {
			return nil, mesh.Errorf(mesh.Invalid, "this is not a JSON object of strings").WithHint(`it must look like {"NAME": "value"}`)
		}
		for name, v := range plain {
			if _, err := mesh.ParseVarName(name); err != nil {
				return nil, err
			}
			set[name] = mesh.NewSecret(v)
		}
		return set, nil
	}
	line := 1
	for text != "" {
		at := line
		rest := strings.TrimLeft(text, " \t")
		if rest == "" || rest[0] == '\n' || rest[0] == '#' {
			text = afterLine(rest)
			line++
			continue
		}
		// The text of a line may be a secret, so errors give only its number.
		bad := func(why string) error {
			return mesh.Errorf(mesh.Invalid, "line %d: %s", at, why).WithHint("write NAME=VALUE, and quote a value with spaces or several lines")
		}
		if after, ok := strings.CutPrefix(rest, "export"); ok && strings.IndexAny(after, " \t") == 0 {
			rest = strings.TrimLeft(after, " \t")
		}
		eq := strings.IndexAny(rest, "=\n")
		if eq < 0 || rest[eq] != '=' {
			return nil, bad("it has no =")
		}
		name, err := mesh.ParseVarName(strings.TrimRight(rest[:eq], " \t"))
		if err != nil {
			return nil, err
		}
		value, after, err := parseValue(rest[eq+1:])
		if err != nil {
			return nil, bad(err.Error())
		}
		if _, twice := set[name]; twice {
			return nil, bad(name + " is set twice")
		}
		set[name] = mesh.NewSecret(value)
		line += strings.Count(text[:len(text)-len(after)], "\n")
		text = after
	}
	return set, nil
}

func afterLine(s string) string {
	if i := strings.IndexByte(s, '\n'); i >= 0 {
		return s[i+1:]
	}
	return ""
}

// parseValue parses a value up to the end of its last line.
func parseValue(s string) (value, after string, err error) {
	bare := s
	if s = strings.TrimLeft(s, " \t"); s == "" || s[0] != '\'' && s[0] != '"' {
		line, _, _ := strings.Cut(bare, "\n")
		return strings.Trim(withoutComment(line), " \t\r"), afterLine(bare), nil
	}
	var b strings.Builder
	for s != "" {
		switch s[0] {
		case '\'':
			end := strings.IndexByte(s[1:], '\'')
			if end < 0 {
				return "", "", mesh.Errorf(mesh.Invalid, "a quote (') is not closed")
			}
			b.WriteString(s[1 : 1+end])
			s = s[end+2:]
		case '"':
			var ok bool
			if s, ok = doubleQuoted(&b, s[1:]); !ok {
				return "", "", mesh.Errorf(mesh.Invalid, `a quote (") is not closed`)
			}
		case '\\':
			if len(s) < 2 {
				return "", "", mesh.Errorf(mesh.Invalid, "it ends with a backslash")
			}
			b.WriteByte(s[1])
			s = s[2:]
		default:
			line, _, _ := strings.Cut(s, "\n")
			if rest := strings.TrimLeft(line, " \t"); rest != "" && (rest[0] != '#' || rest == line) {
				return "", "", mesh.Errorf(mesh.Invalid, "text follows the closing quote")
			}
			return b.String(), afterLine(s), nil
		}
	}
	return b.String(), "", nil
}

// withoutComment returns an unquoted value up to a # with a blank before it.
func withoutComment(line string) string {
	for i := range line {
		if line[i] == '#' && i > 0 && (line[i-1] == ' ' || line[i-1] == '\t') {
			return line[:i]
		}
	}
	return line
}

// plainText converts a text from the editors and shells of any system: it gets Unix
// line ends and loses a byte order mark.
func plainText(s string) (string, error) {
	if strings.HasPrefix(s, "\xff\xfe") || strings.HasPrefix(s, "\xfe\xff") {
		return "", mesh.Errorf(mesh.Invalid, "standard input is UTF-16").WithHint("save it as UTF-8; in PowerShell: Get-Content .env | Set-Content -Encoding utf8 .env.utf8")
	}
	s = strings.ReplaceAll(strings.TrimPrefix(s, "\ufeff"), "\r\n", "\n")
	if !utf8.ValidString(s) {
		n := 1
		for line := range strings.Lines(s) {
			if !utf8.ValidString(line) {
				break
			}
			n++
		}
		return "", mesh.Errorf(mesh.Invalid, "line %d is not valid UTF-8", n).WithHint("save the file as UTF-8; encode a binary value, for example with: base64 -w0 FILE")
	}
	return s, nil
}

// text reads all of standard input, up to a limit in bytes.
func (c *call) text(what string, limit int64) (string, error) {
	data, err := io.ReadAll(io.LimitReader(c.Upload, limit+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", what, err)
	}
	if int64(len(data)) > limit {
		return "", mesh.Errorf(mesh.Invalid, "%s on standard input are longer than %d KB", what, limit>>10)
	}
	return string(data), nil
}

// doubleQuoted reads up to the closing quote, with the escapes of dotenv files.
func doubleQuoted(b *strings.Builder, s string) (after string, ok bool) {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return s[i+1:], true
		case s[i] == '\\' && i+1 < len(s):
			i++
			switch s[i] {
			case 'n':
				b.WriteByte('\n')
			case 'r':
				b.WriteByte('\r')
			case 't':
				b.WriteByte('\t')
			case '"', '\\', '$', '`':
				b.WriteByte(s[i])
			default:
				b.WriteByte('\\')
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return "", false
}
