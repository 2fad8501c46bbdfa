package addons

import (
	"bytes"
	_ "embed" // the declarations of the kinds
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/docker/go-units"
	"github.com/pelletier/go-toml/v2"

	"mesh"
)

// kind is the declaration of a kind: what kinds.toml describes.
type kind struct {
	Also      []string          `toml:"also"`
	Image     string            `toml:"image"`
	Version   string            `toml:"version"`
	Port      int               `toml:"port"`
	Volume    string            `toml:"volume"`
	As        string            `toml:"as"`
	Users     bool              `toml:"users"`
	Databases bool              `toml:"databases"`
	Vars      map[string]string `toml:"vars"`
	Parts     map[string]string `toml:"parts"`
	Env       map[string]string `toml:"env"`
	Command   []string          `toml:"command"`
	Parameter []string          `toml:"parameter"`
	Files     map[string]string `toml:"files"`
	Shm       string            `toml:"shm"`
	Stop      string            `toml:"stop"`
	Healthy   *program          `toml:"healthy"`
	Setup     *program          `toml:"setup"`
	Add       *program          `toml:"add"`
	Drop      *program          `toml:"drop"`
	Dump      *dump             `toml:"dump"`
	Restore   []restore         `toml:"restore"`
	Check     *program          `toml:"check"`
	Open      *program          `toml:"open"`
	Slow      *program          `toml:"slow"`
	Shell     *program          `toml:"shell"`

	name mesh.AddonKind
	own  bool  // declared by the admin of this server
	shm  int64 // bytes
}

// program is a command that runs in the container of an add-on.
type program struct {
	Run    []string          `toml:"run"`
	Env    map[string]string `toml:"env"`
	Input  string            `toml:"input"`
	User   string            `toml:"user"`
	Prints string            `toml:"prints"` // what its output contains if it succeeds
}

// dump is how all data is written.
type dump struct {
	program
	Volume bool   `toml:"volume"` // as a tar of the volume, while the server is paused
	Form   string `toml:"form"`   // for people
	Begins string `toml:"begins"` // a dump that is whole begins and ends so
	Ends   string `toml:"ends"`
	Note   string `toml:"note"` // what is not in it
}

// restore is how a dump is read.
type restore struct {
	program
	Begins  string            `toml:"begins"`
	File    string            `toml:"file"`    // it is this file, in the volume, when the server starts
	Without map[string]string `toml:"without"` // the files of that start
	Whole   map[string]string `toml:"whole"`   // a dump with the one line near its beginning has the other near its end
	Before  *program          `toml:"before"`
	Then    *program          `toml:"then"`
}

//go:embed kinds.toml
var declared []byte

// builtIn returns the kinds of kinds.toml. Nobody changes them.
var builtIn = sync.OnceValues(func() (map[mesh.AddonKind]*kind, error) {
	all := map[mesh.AddonKind]*kind{}
	d := toml.NewDecoder(bytes.NewReader(declared)).DisallowUnknownFields()
	if err := d.Decode(&all); err != nil {
		return nil, fmt.Errorf("read the kinds of add-ons: %w", tomlFault(err))
	}
	for name, k := range all {
		k.name = name
		if err := k.check(); err != nil {
			return nil, fmt.Errorf("the kind %s: %w", name, err)
		}
	}
	return all, nil
})

// ownKinds returns the kinds that the admin has declared in a folder, which may be missing,
// and what is wrong with the other files.
func ownKinds(folder string) (map[mesh.AddonKind]*kind, []error) {
	all := map[mesh.AddonKind]*kind{}
	if folder == "" {
		return all, nil
	}
	entries, err := os.ReadDir(folder)
	if errors.Is(err, os.ErrNotExist) {
		return all, nil
	} else if err != nil {
		return all, []error{err}
	}
	var faults []error
	for _, e := range entries {
		base, is := strings.CutSuffix(e.Name(), ".toml")
		if !is || e.IsDir() {
			continue
		}
		k, err := readKind(filepath.Join(folder, e.Name()), base)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", filepath.Join(folder, e.Name()), err))
			continue
		}
		all[k.name] = k
	}
	return all, faults
}

// maxKindFile limits the file of one kind, in bytes.
const maxKindFile = 256 << 10

func readKind(file, base string) (*kind, error) {
	name, err := mesh.ParseAddonName(base)
	if err != nil {
		return nil, fmt.Errorf("the file's name is not that of a kind: %w", err)
	}
	if info, err := os.Stat(file); err != nil {
		return nil, err
	} else if info.Size() > maxKindFile {
		return nil, fmt.Errorf("it is longer than %d bytes", maxKindFile)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	k := &kind{name: mesh.AddonKind(name), own: true}
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(k); err != nil {
		return nil, tomlFault(err)
	}
	return k, k.check()
}

// tomlFault adds the place to an error of the decoder.
func tomlFault(err error) error {
	var strict *toml.StrictMissingError
	var at *toml.DecodeError
	switch {
	case errors.As(err, &strict) && len(strict.Errors) > 0:
		row, _ := strict.Errors[0].Position()
		return fmt.Errorf("line %d: there is no key %s", row, strings.Join(strict.Errors[0].Key(), "."))
	case errors.As(err, &at):
		row, _ := at.Position()
		return fmt.Errorf("line %d: %w", row, err)
	}
	return err
}

var (
	variable  = regexp.MustCompile(`\$\{([A-Z_]*)\}`)
	imageRule = regexp.MustCompile(`^[a-z0-9][a-z0-9._/:-]*$`)
)

// known are the names that a declaration may use.
var known = []string{"HOST", "PORT", "USER", "PASSWORD", "ADMIN", "DATABASE", "NAME", "NEW_USER", "NEW_PASSWORD", "PARAMETER", "VALUE"}

// check returns the first thing that is wrong with a declaration.
func (k *kind) check() error {
	switch {
	case !imageRule.MatchString(k.Image):
		return fmt.Errorf("image = %q is not the name of an image", k.Image)
	case k.Version == "":
		return errors.New("version is missing: the tag of the image")
	case k.Port < 1 || k.Port > 65535:
		return fmt.Errorf("port = %d is not a port", k.Port)
	case k.Volume != "" && !strings.HasPrefix(k.Volume, "/"):
		return fmt.Errorf("volume = %q is not an absolute path", k.Volume)
	case len(k.Vars) == 0:
		return errors.New("vars is missing: the config vars of the stacks that use it")
	case k.Dump != nil && k.Dump.Volume && k.Volume == "":
		return errors.New("dump cannot be the volume: there is none")
	case k.Dump != nil && !k.Dump.Volume && len(k.Dump.Run) == 0:
		return errors.New("dump.run is missing")
	case k.Dump != nil && !k.Dump.Volume && len(k.Restore) == 0:
		return errors.New("restore is missing: a dump that cannot be restored is no backup")
	}
	if as, err := mesh.ParseAttachmentName(k.As); err != nil || as != k.As {
		return fmt.Errorf("as = %q is not the beginning of a config var", k.As)
	}
	if k.Shm != "" {
		n, err := units.RAMInBytes(k.Shm)
		if err != nil {
			return fmt.Errorf("shm = %q is not a size", k.Shm)
		}
		k.shm = n
	}
	for _, text := range k.texts() {
		for _, m := range variable.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(known, m[1]) {
				return fmt.Errorf("${%s} means nothing; there are %s", m[1], strings.Join(known, ", "))
			}
		}
	}
	return nil
}

// texts returns everything that can have a ${NAME}.
func (k *kind) texts() []string {
	all := slices.Concat(k.Command, k.Parameter)
	add := func(p *program) {
		if p != nil {
			all = append(all, p.Run...)
			all = slices.AppendSeq(append(all, p.Input), maps.Values(p.Env))
		}
	}
	for _, p := range []*program{k.Healthy, k.Setup, k.Add, k.Drop, k.Check, k.Open, k.Slow, k.Shell} {
		add(p)
	}
	if k.Dump != nil {
		add(&k.Dump.program)
	}
	for _, r := range k.Restore {
		add(&r.program)
		add(r.Before)
		add(r.Then)
		all = slices.AppendSeq(all, maps.Values(r.Without))
	}
	for _, m := range []map[string]string{k.Vars, k.Parts, k.Env, k.Files} {
		all = slices.AppendSeq(all, maps.Values(m))
	}
	return all
}

// values are what the names in a declaration mean for an add-on.
func (k *kind) values(a mesh.Addon) map[string]string {
	return map[string]string{
		"HOST": a.Name.Host(), "PORT": strconv.Itoa(k.Port), "USER": a.User, "DATABASE": a.Database, "NAME": string(a.Name),
		"PASSWORD": a.Password.Reveal(), "ADMIN": a.Admin.Reveal(),
	}
}

// fill puts values into a text.
func fill(text string, values map[string]string) string {
	return variable.ReplaceAllStringFunc(text, func(v string) string { return values[v[2:len(v)-1]] })
}

func fillAll(texts []string, values map[string]string) []string {
	out := make([]string, len(texts))
	for i, t := range texts {
		out[i] = fill(t, values)
	}
	return out
}

func fillMap(texts, values map[string]string) map[string]string {
	out := make(map[string]string, len(texts))
	for k, t := range texts {
		out[k] = fill(t, values)
	}
	return out
}

// parameters returns the words that an add-on's parameters add to its command.
func (k *kind) parameters(a mesh.Addon) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(a.Params)) {
		out = append(out, fillAll(k.Parameter, map[string]string{"PARAMETER": name, "VALUE": a.Params[name]})...)
	}
	return out
}

var parameterRule = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,63}$`)

// checkParameter returns an error for a parameter that no server has.
func (k *kind) checkParameter(name, value string) error {
	switch {
	case len(k.Parameter) == 0:
		return mesh.Errorf(mesh.Invalid, "%s takes no parameters", k.name)
	case !parameterRule.MatchString(name):
		return mesh.Errorf(mesh.Invalid, "%q is not the name of a parameter", mesh.Clip(name, 60))
	case len(value) > 1000 || value != mesh.Visible(value):
		return mesh.Errorf(mesh.Invalid, "the value of %s is too long, or not one line", name)
	}
	return nil
}

// info describes the kind.
func (k *kind) info() mesh.AddonKindInfo {
	return mesh.AddonKindInfo{
		Name: k.name, Also: k.Also, Image: k.Image, Version: k.Version, Port: k.Port, As: k.As, Own: k.own,
		Dumps: k.Dump != nil, Shell: k.Shell != nil,
	}
}
