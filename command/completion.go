package command

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"mesh"
)

var completionCommands = []*definition{
	{
		topic: "completion", args: "bash|zsh|fish", short: "Print a shell completion script", min: 1, max: 1, run: runCompletion,
		long: "bash: `source <(mesh completion bash)` in ~/.bashrc; zsh: `source <(mesh completion zsh)` in ~/.zshrc,\n" +
			"below compinit; fish: `mesh completion fish > ~/.config/fish/completions/mesh.fish`.",
	},
}

// The scripts call "mesh __complete WORDS…" to complete the last word. It prints one
// completion a line, with a description after a tab. In bash a colon ends a word, so
// the part before the last colon is removed again.
const (
	bashCompletion = `_mesh() {
  local line=${COMP_LINE:0:COMP_POINT} IFS=$' \t\n'
  local -a words
  read -ra words <<<"$line"
  [[ $line == *[[:blank:]] ]] && words+=("")
  local cur=${words[${#words[@]}-1]} c
  COMPREPLY=()
  while IFS=$'\t' read -r c _; do
    COMPREPLY+=("$c")
  done < <(mesh __complete "${words[@]:1}" 2>/dev/null)
  if [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]]; then
    local i
    for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]=${COMPREPLY[i]#"${cur%:*}:"}; done
  fi
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
}
complete -F _mesh mesh
`
	zshCompletion = `_mesh() {
  local -a found open
  found=(${${(f)"$(mesh __complete "${(@)words[2,CURRENT]}" 2>/dev/null)"}%%$'\t'*})
  open=(${(M)found:#*=})
  found=(${found:#*=})
  (( $#found )) && compadd -- $found
  (( $#open )) && compadd -S '' -- $open
}
compdef _mesh mesh
`
	fishCompletion = `complete -c mesh -f -a '(mesh __complete (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
`
)

func runCompletion(_ context.Context, c *call) error {
	scripts := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	s, ok := scripts[c.args[0]]
	if !ok {
		return c.usage("no completion for %q; use bash, zsh or fish", mesh.Clip(c.args[0], 40))
	}
	_, err := io.WriteString(c.Stdout, s)
	return err
}

// own holds the binary's own commands, which are not in the table.
var own = [][2]string{{"serve", "run the server"}, {"restore", "turn a backup into a data directory"}, {"standby", "keep a copy of a server"}}

// Complete prints the completions of the last word, one a line, with a description
// after a tab. It needs no server.
func Complete(w io.Writer, words []string) {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	seen := map[string]bool{}
	offer := func(word, what string) {
		if strings.HasPrefix(word, last) && !seen[word] {
			seen[word] = true
			_, _ = fmt.Fprintf(w, "%s\t%s\n", word, what)
		}
	}
	before := withoutStack(words[:len(words)-1])
	all := table()
	if len(before) == 0 {
		for _, d := range all {
			offer(d.name(), d.short)
		}
		for _, o := range own {
			offer(o[0], o[1])
		}
		return
	}
	first, _, joined := strings.Cut(before[0], ":")
	name := topic(first)
	if len(before) == 1 && !joined {
		for _, d := range all {
			if d.topic == name && d.verb != "" {
				offer(d.verb, d.short)
			}
		}
	}
	def, _, err := find(before)
	if err != nil {
		return
	}
	if i := strings.LastIndex(before[len(before)-1], "--"); i == 0 && len(before[len(before)-1]) > 2 && !strings.Contains(before[len(before)-1], "=") {
		if values := flagValues[before[len(before)-1][2:]]; values != nil {
			for _, v := range values {
				offer(v, "")
			}
			return
		}
	}
	for _, v := range def.words() {
		offer(v, "")
	}
	if strings.HasPrefix(last, "-") {
		if def.stack {
			offer("-a", "the stack")
			offer("--app", "the stack")
		}
		if def.global {
			offer("--global", "of all stacks")
		}
		if def.json {
			offer("--json", "print JSON")
		}
		offer("--help", "print help")
		if def.flags != nil {
			fs := pflag.NewFlagSet("", pflag.ContinueOnError)
			def.flags(fs)
			fs.VisitAll(func(f *pflag.Flag) { offer("--"+f.Name, strings.ReplaceAll(f.Usage, "`", "")) })
		}
	}
}

// flagValues holds the values of options that take one of a few words.
var flagValues = map[string][]string{
	"role":   {"admin", "deploy", "read"},
	"format": {formatShell, formatEnvfile, formatJSON},
	"source": {"app", "router", "mesh"},
}

// words returns the arguments of a command that takes one of a few words.
func (d *definition) words() []string {
	switch d.name() {
	case "build:set", "build:unset":
		var out []string
		for _, name := range mesh.SettingNames() {
			if d.verb == "set" {
				name += "="
			}
			out = append(out, name)
		}
		return out
	case "completion":
		return []string{"bash", "zsh", "fish"}
	case "help":
		var out []string
		for _, d := range table() {
			if !slices.Contains(out, d.topic) {
				out = append(out, d.topic)
			}
		}
		return out
	}
	return nil
}

// withoutStack drops leading options that name a stack or a server.
func withoutStack(words []string) []string {
	for len(words) > 0 {
		_, n := StackOption(words)
		switch {
		case n > 0:
			words = words[n:]
		case words[0] == "--host", words[0] == "--data":
			words = words[min(2, len(words)):]
		case strings.HasPrefix(words[0], "-"):
			words = words[1:]
		default:
			return words
		}
	}
	return words
}
