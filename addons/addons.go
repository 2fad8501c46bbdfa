// Package addons runs the servers for data beside the stacks: PostgreSQL, Redis and others,
// each a container of an image that others make, with a volume that outlives it.
//
// It knows the kinds, turns the record of an add-on into what the engine runs, lets the
// stacks that are attached reach it, and reads and writes dumps. It keeps nothing in memory
// that the engine does not have. Others decide which add-ons there are, who may use them,
// and where dumps are kept.
//
//	s := addons.New(cli, addons.Options{Server: id, Inside: runner, Attached: …})
//	a, err := s.Plan("postgres", "16", "shopdb")
//	a, err = s.Fetch(ctx, a, say)
//	err = s.Run(ctx, a) // returns once it answers
package addons

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"mesh"
	"mesh/engine"
)

// Inside runs commands and copies files in running containers.
type Inside interface {
	// Exec returns the exit code of a command, which ends with ctx.
	Exec(ctx context.Context, e mesh.Exec) (int, error)
	// CopyOut writes a file or folder as a tar stream; CopyIn unpacks one into a folder.
	CopyOut(ctx context.Context, id, file string, w io.Writer) error
	CopyIn(ctx context.Context, id, folder string, content io.Reader) error
}

// Options are what New needs besides the client.
type Options struct {
	// Server distinguishes what this server has in the engine from what others have. It
	// must not be empty, and must not change over the life of the data.
	Server string
	// Labels are put on every container, volume and network.
	Labels map[string]string
	// Kinds is the folder with the kinds that the admin has declared; empty: none.
	Kinds string
	// Inside reaches into containers.
	Inside Inside
	// Attached returns the records of the add-ons that the instances of a stack may reach.
	Attached func(mesh.StackName) []mesh.Addon
	// OnNetwork is called when the network of the add-ons was created, so that mesh itself
	// can enter it if it runs in a container; nil: it runs on the host.
	OnNetwork func(ctx context.Context) error
	// SignIn returns the login for the registry of an image; nil: there is none.
	SignIn func(ctx context.Context, host string) (mesh.Registry, bool)
	// Logger gets details that people are not shown; nil: slog.Default().
	Logger *slog.Logger
	// Patience is how long a server may take until it answers; 0: two minutes.
	Patience time.Duration
}

// Server runs add-ons in one engine. It may be used from several goroutines, but only one
// at a time may change the same add-on.
type Server struct {
	Options
	cli *engine.Client
}

// New returns a Server. It does not talk to the engine.
func New(cli *engine.Client, o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Patience == 0 {
		o.Patience = 2 * time.Minute
	}
	return &Server{Options: o, cli: cli}
}

// kinds returns all kinds: a declaration of the admin replaces one of ours.
func (s *Server) kinds() (map[mesh.AddonKind]*kind, []error) {
	own, faults := ownKinds(s.Kinds)
	ours, err := builtIn()
	if err != nil {
		faults = append(faults, err) // TestKinds reads them all
	}
	all := maps.Clone(ours)
	maps.Copy(all, own)
	return all, faults
}

// All describes the kinds, by name, and what is wrong with declarations of the admin.
func (s *Server) All() (list []mesh.AddonKindInfo, faults []error) {
	kinds, faults := s.kinds()
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		list = append(list, kinds[name].info())
	}
	return list, faults
}

// kind finds a kind by one of its names.
func (s *Server) kind(name string) (*kind, error) {
	kinds, faults := s.kinds()
	if k := kinds[mesh.AddonKind(name)]; k != nil {
		return k, nil
	}
	for _, k := range kinds {
		if slices.Contains(k.Also, name) {
			return k, nil
		}
	}
	for _, f := range faults {
		if strings.Contains(f.Error(), "/"+name+".toml") {
			return nil, mesh.Errorf(mesh.Invalid, "the kind %s is not declared correctly: %w", name, f)
		}
	}
	var names []string
	for _, n := range slices.Sorted(maps.Keys(kinds)) {
		names = append(names, string(n))
	}
	return nil, mesh.Errorf(mesh.NotFound, "there is no kind of add-on %q", mesh.Clip(mesh.Visible(name), 60)).WithHint("choose one of %s", strings.Join(names, ", "))
}

// Kind returns the kind with a name, which may be one of its other names.
func (s *Server) Kind(name string) (mesh.AddonKindInfo, error) {
	k, err := s.kind(name)
	if err != nil {
		return mesh.AddonKindInfo{}, err
	}
	return k.info(), nil
}

// of returns the kind of an add-on.
func (s *Server) of(a mesh.Addon) (*kind, error) {
	k, err := s.kind(string(a.Kind))
	if err != nil {
		return nil, fmt.Errorf("add-on %s: %w", a.Name, err)
	}
	return k, nil
}

// Plan returns a new add-on of a kind, with random names and passwords. version is the tag
// of its image; empty: the kind's own. Nothing exists yet.
func (s *Server) Plan(kind, version string, name mesh.AddonName) (mesh.Addon, error) {
	k, err := s.kind(kind)
	if err != nil {
		return mesh.Addon{}, err
	}
	if version == "" {
		version = k.Version
	}
	if !versionRule.MatchString(version) {
		return mesh.Addon{}, mesh.Errorf(mesh.Invalid, "%q is not a version of %s", mesh.Clip(mesh.Visible(version), 60), k.name).
			WithHint("use a tag of its image %s, such as %s:%s", k.Image, k.name, k.Version)
	}
	a := mesh.Addon{
		Name: name, Kind: k.name, Version: version, Image: k.Image + ":" + version, State: mesh.AddonCreating,
		Password: newPassword(), Admin: newPassword(),
	}
	if k.Users {
		a.User = newUser()
	}
	if k.Databases {
		a.Database = strings.ReplaceAll(string(name), "-", "_")
	}
	if k.Volume != "" {
		a.Volume = s.newVolume(name)
	}
	return a, nil
}

// newPassword returns a password with 130 random bits that needs no quoting anywhere.
func newPassword() mesh.Secret { return mesh.NewSecret(strings.ToLower(rand.Text())) }

func newUser() string { return "u" + strings.ToLower(rand.Text()[:9]) }

// newVolume returns the name of a volume that does not exist yet.
func (s *Server) newVolume(name mesh.AddonName) string {
	return s.prefix() + string(name) + "-" + strings.ToLower(rand.Text()[:6])
}

// Renew returns the add-on with another volume, which does not exist yet.
func (s *Server) Renew(a mesh.Addon) mesh.Addon {
	if a.Volume != "" {
		a.Volume = s.newVolume(a.Name)
	}
	return a
}

// Upgraded returns the add-on with another version of its image.
func (s *Server) Upgraded(a mesh.Addon, version string) (mesh.Addon, error) {
	k, err := s.of(a)
	if err != nil {
		return a, err
	}
	if !versionRule.MatchString(version) {
		return a, mesh.Errorf(mesh.Invalid, "%q is not a version of %s", mesh.Clip(mesh.Visible(version), 60), k.name)
	}
	a.Version, a.Image, a.ImageID, a.Digest = version, k.Image+":"+version, "", ""
	return a, nil
}

// Vars returns the config vars that tell a stack of an add-on.
func (s *Server) Vars(a mesh.Addon, at mesh.Attachment) (mesh.Config, error) {
	k, err := s.of(a)
	if err != nil {
		return nil, err
	}
	out, values := mesh.Config{}, k.values(a)
	for end, text := range k.Vars {
		out[at.As+"_"+end] = mesh.NewSecret(fill(text, values))
	}
	if at.Parts {
		for name, text := range k.Parts {
			out[name] = mesh.NewSecret(fill(text, values))
		}
	}
	return out, nil
}

// CheckParam returns an error for a parameter that the kind's servers cannot have.
func (s *Server) CheckParam(a mesh.Addon, name, value string) error {
	k, err := s.of(a)
	if err != nil {
		return err
	}
	return k.checkParameter(name, value)
}

// fault is engine.Fault.
func (s *Server) fault(ctx context.Context, doing string, err error) error {
	return engine.Fault(ctx, s.cli.Host(), doing, err)
}
