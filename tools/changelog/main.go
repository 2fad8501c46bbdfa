// Command changelog adds the notes of a folder to the top of CHANGELOG.md as a version,
// for scripts/release:
//
//	changelog VERSION DATE FOLDER CHANGELOG
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "changelog:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 4 {
		return errors.New("usage: changelog VERSION DATE FOLDER CHANGELOG")
	}
	notes, err := read(args[2])
	if err != nil {
		return err
	}
	old, err := os.ReadFile(args[3])
	if err != nil {
		return err
	}
	page, err := add(string(old), section(args[0], args[1], notes))
	if err != nil {
		return fmt.Errorf("%s: %w", args[3], err)
	}
	return os.WriteFile(args[3], []byte(page), 0o644) //nolint:gosec // for all to read
}

// kinds are the first words of notes, in the order of the changelog.
var kinds = []string{"New", "Change", "Fix"}

// note is one file of docs/changes/unreleased.
type note struct{ kind, text string }

// read reads the notes of a folder, sorted by file name.
func read(dir string) (notes []note, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.md"))
	if err != nil {
		return nil, err
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		n, err := parse(string(bytes.TrimSpace(b)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		notes = append(notes, n)
	}
	return notes, nil
}

func parse(text string) (note, error) {
	for _, k := range kinds {
		if rest, ok := strings.CutPrefix(text, k+": "); ok {
			return note{k, rest}, nil
		}
	}
	return note{}, fmt.Errorf("the first line begins with none of %s, and a colon", strings.Join(kinds, ", "))
}

// section returns a version of the changelog: a list for each kind. Each item begins
// with the first line of its note, followed by the rest.
func section(version, date string, notes []note) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s (%s)\n", version, date)
	for _, k := range kinds {
		titled := false
		for _, n := range notes {
			if n.kind != k {
				continue
			}
			if !titled {
				fmt.Fprintf(&b, "\n### %s\n\n", k)
				titled = true
			}
			for i, line := range strings.Split(n.text, "\n") {
				switch {
				case i == 0:
					fmt.Fprintf(&b, "- %s\n", upper(line))
				case line == "":
					b.WriteString("\n")
				default:
					fmt.Fprintf(&b, "  %s\n", line)
				}
			}
		}
	}
	return b.String()
}

// upper capitalizes the first letter, unless the text begins with the program's name.
func upper(s string) string {
	if strings.HasPrefix(s, "mesh ") {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// add inserts a section before the first one, after the changelog's introduction.
func add(page, section string) (string, error) {
	version, _, _ := strings.Cut(section, " (")
	if strings.Contains("\n"+page, "\n"+version+" (") {
		return "", fmt.Errorf("%s is there already", strings.TrimPrefix(version, "## "))
	}
	head, rest, found := strings.Cut(page, "\n## ")
	if !found {
		return strings.TrimRight(page, "\n") + "\n\n" + section, nil
	}
	return strings.TrimRight(head, "\n") + "\n\n" + section + "\n## " + rest, nil
}
