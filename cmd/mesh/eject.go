package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"mesh"
	"mesh/builder/detect"
	"mesh/command"
	"mesh/deploy/manifest"
)

// ejects reports whether a command line is "build:dockerfile --eject". The client runs
// that itself, because it works on local files.
func ejects(words []string) bool {
	var named []string
	eject := false
	for i := 0; i < len(words); i++ {
		_, n := command.StackOption(words[i:])
		switch w := words[i]; {
		case n > 0:
			i += n - 1
		case w == "--eject" || w == "--eject=true":
			eject = true
		case !strings.HasPrefix(w, "-"):
			named = append(named, w)
		}
	}
	return eject && (slices.Equal(named, []string{"build:dockerfile"}) || slices.Equal(named, []string{"build", "dockerfile"}))
}

// eject writes the Dockerfile that mesh would build the folder with. ask runs a command
// on the server, whose settings of the stack apply; it is nil if no server was chosen.
func eject(words []string, ask func(words []string, stdout io.Writer) error, stderr io.Writer) error {
	var set mesh.Settings
	if ask != nil {
		var out bytes.Buffer
		values := map[string]string{}
		if err := ask(append(stackWords(words), "build", "--json"), &out); err != nil || json.Unmarshal(out.Bytes(), &values) != nil {
			_, _ = fmt.Fprintln(stderr, "cannot read the stack's build settings from the server; continuing without them")
		}
		for name, v := range values {
			_ = set.Set(name, v) // ignore a setting that this client does not know
		}
	}
	m, err := manifest.Read(set.Root, func(name string) (string, error) {
		b, err := os.ReadFile(filepath.FromSlash(name)) //nolint:gosec // below the current folder
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return string(b), err
	})
	if err != nil {
		return err
	}
	set = set.Over(m.Settings)
	root := filepath.FromSlash(set.Root)
	file := filepath.Join(root, mesh.DefaultDockerfile)
	if _, err := os.Lstat(file); err == nil && !slices.Contains(words, "--force") {
		return mesh.Errorf(mesh.Conflict, "%s already exists", file).WithHint("to overwrite it: mesh build:dockerfile --eject --force")
	}
	scope := filepath.FromSlash(set.Context)
	dir, err := filepath.Rel(cmp.Or(scope, "."), cmp.Or(root, "."))
	if err != nil || !filepath.IsLocal(dir) {
		scope, dir = root, "" // as on the server: context= has no effect then
	}
	plan, err := detect.Folder(os.DirFS(cmp.Or(scope, ".")), filepath.ToSlash(dir), detect.SettingsOf(set))
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(plan.Dockerfile), 0o644); err != nil { //nolint:gosec // as git has files
		return err
	}
	_, _ = fmt.Fprintf(stderr, "wrote %s: %s, because %s\n", file, plan.Title(), plan.Because)
	context := filepath.Join(scope, filepath.FromSlash(plan.Context))
	ignore := filepath.Join(context, ".dockerignore")
	if _, err := os.Lstat(ignore); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(ignore, []byte(plan.Ignore), 0o644); err != nil { //nolint:gosec // as above
			return err
		}
		_, _ = fmt.Fprintf(stderr, "wrote %s\n", ignore)
	}
	if seen := filepath.ToSlash(context); seen != set.Context { // the repository's own Dockerfile sees all of it
		_, _ = fmt.Fprintf(stderr, "it builds %s/ alone: before the next push, set context = %q in mesh.toml, or run: ssh mesh build:set context=%s\n", context, seen, seen)
	}
	return nil
}

// stackWords returns the options that name the stack.
func stackWords(words []string) (out []string) {
	for i := range words {
		_, n := command.StackOption(words[i:])
		out = append(out, words[i:i+n]...)
	}
	return out
}
