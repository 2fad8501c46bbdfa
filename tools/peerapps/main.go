// Command peerapps puts applications to detection, as the builder does with a pushed
// tree, and prints what mesh would do with each. scripts/peer-apps builds and runs it.
//
//	peerapps [--compare FILE] PLACE…
//
// A place is a folder, whose child folders are the applications, or a file that lists
// one application a line. The output may be saved and compared with a later run.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"mesh"
	"mesh/builder/detect"
)

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peerapps:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, args []string) error {
	flags := flag.NewFlagSet("peer-apps", flag.ContinueOnError)
	compare := flags.String("compare", "", "print only what differs from this saved output")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("usage: peer-apps [--compare FILE] DIR|LIST…")
	}
	var before map[string]string
	if *compare != "" {
		var err error
		if before, err = saved(*compare); err != nil {
			return err
		}
	}
	apps, err := applications(flags.Args())
	if err != nil {
		return err
	}
	return report(w, apps, before)
}

// report prints a line for each application and the counts. With an earlier run, it
// prints the applications that have changed, with both results.
func report(w io.Writer, apps []string, before map[string]string) error {
	wide := 0
	for _, a := range apps {
		wide = max(wide, len(a))
	}
	counts, changed := map[kind]int{}, 0
	for _, a := range apps {
		k, text := verdict(a)
		counts[k]++
		old, known := before[a]
		switch {
		case before == nil:
			_, _ = fmt.Fprintf(w, "%-*s  %s\n", wide, a, text)
		case !known:
			changed++
			_, _ = fmt.Fprintf(w, "%s\n  new: %s\n", a, text)
		case old != text:
			changed++
			_, _ = fmt.Fprintf(w, "%s\n  was: %s\n  now: %s\n", a, old, text)
		}
	}
	if before != nil {
		_, _ = fmt.Fprintf(w, "# %d changed\n", changed)
	}
	_, err := fmt.Fprintf(w, "# %d applications: %d built, %d with their own Dockerfile, %d refused with a hint, %d refused without\n",
		len(apps), counts[built], counts[own], counts[hinted], counts[bare])
	return err
}

// kind is what a result counts as.
type kind int

const (
	built kind = iota
	own
	hinted
	bare
)

// verdict is what mesh does with a folder, on one line.
func verdict(dir string) (kind, string) {
	for _, f := range []string{mesh.DefaultDockerfile, "dockerfile"} {
		if i, err := os.Stat(filepath.Join(dir, f)); err == nil && i.Mode().IsRegular() {
			return own, "Dockerfile"
		}
	}
	plan, err := detect.Folder(os.DirFS(dir), "", detect.Settings{})
	var e *mesh.Error
	switch {
	case err == nil:
		return built, plan.Title() + "; " + start(plan)
	case errors.As(err, &e) && e.Hint != "":
		return hinted, flat("refused: " + e.Text + " (hint: " + e.Hint + ")")
	}
	return bare, flat("refused: " + err.Error())
}

// start is the fact that a plan has about its start command.
func start(plan *detect.Plan) string {
	for _, f := range plan.Facts {
		if strings.HasPrefix(f.What, "starts ") {
			return f.What
		}
	}
	return "starts nothing of its own"
}

func flat(s string) string { return strings.Join(strings.Fields(s), " ") }

// applications are the folders in the given places.
func applications(places []string) (dirs []string, err error) {
	for _, p := range places {
		info, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			text, err := os.ReadFile(p)
			if err != nil {
				return nil, err
			}
			dirs = append(dirs, strings.Fields(string(text))...)
			continue
		}
		list, err := os.ReadDir(p)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
				dirs = append(dirs, filepath.Join(p, e.Name()))
			}
		}
	}
	sort.Strings(dirs)
	return dirs, nil
}

// saved reads the lines of an earlier run.
func saved(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	results := map[string]string{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if dir, text, ok := strings.Cut(lines.Text(), "  "); ok && !strings.HasPrefix(dir, "#") {
			results[dir] = strings.TrimSpace(text)
		}
	}
	return results, lines.Err()
}
