package logs

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mesh"
)

// Import takes over the lines that an earlier mesh kept in a folder of text files,
// STACK.log and before it STACK.log.1, and removes the files. A line there is a time, a
// name and a text, with a blank between them. Lines of stacks that are not kept stay.
func (l *Logs) Import(dir, source string) error {
	found, err := filepath.Glob(filepath.Join(dir, "*.log*"))
	if err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b string) int { return strings.Compare(b, a) }) // the older file first
	var all []error
	for _, path := range found {
		name, _, _ := strings.Cut(filepath.Base(path), ".log")
		if l.stack(mesh.StackName(name), false) == nil {
			continue
		}
		if err := l.importFile(mesh.StackName(name), path, source); err != nil {
			all = append(all, err)
			continue
		}
		l.flush()
		all = append(all, os.Remove(path))
	}
	return errors.Join(all...)
}

func (l *Logs) importFile(stack mesh.StackName, path, source string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	n := 0
	for lines.Scan() {
		at, rest, _ := strings.Cut(lines.Text(), " ")
		name, text, ok := strings.Cut(rest, " ")
		t, err := time.Parse("2006-01-02T15:04:05.000000Z", at)
		if !ok || err != nil {
			continue
		}
		l.Add(stack, mesh.LogLine{At: t, Source: source, Name: name, Text: text})
		if n++; n%5000 == 0 {
			l.flush()
		}
	}
	return lines.Err()
}
