package deploy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"

	"mesh"
	"mesh/deploy/manifest"
)

// newRelease fills in what every new release has: its number, who made it, and when.
func (d *Deployer) newRelease(a *attempt, r mesh.Release) mesh.Release {
	r.Stack, r.Number, r.Created, r.By, r.Deployment = a.dep.Stack, a.next, d.Now().UTC(), a.dep.By, a.dep.Number
	return r
}

// services combines what a stack runs: the services that its tree names, or web from
// the image alone, with the settings of svc:update on top.
func services(st mesh.Stack, tree mesh.Declared) map[mesh.ServiceName]mesh.Service {
	out := map[mesh.ServiceName]mesh.Service{}
	for name, command := range tree.Commands {
		if name != mesh.ReleaseCommand {
			out[name] = mesh.Service{Command: command, From: tree.Files[name]}
		}
	}
	if len(out) == 0 {
		out[mesh.Web] = mesh.Service{From: "image"}
	}
	if start := st.Effective().StartCommand; start != "" {
		out[mesh.Web] = mesh.Service{Command: start, From: "start-command"}
	}
	for name, set := range st.Services {
		s := out[name]
		if set.Command != "" {
			s.Command, s.From = set.Command, "svc:update"
		}
		if s.From == "" {
			s.From = "image"
		}
		s.Memory, s.CPUs, s.StopTimeout, s.Config, s.On = set.Memory, set.CPUs, set.StopTimeout, set.Config, set.On
		out[name] = s
	}
	return out
}

// formation returns how many instances of each service a stack should run: as set by
// ps:scale, else one.
func formation(st mesh.Stack, services map[mesh.ServiceName]mesh.Service) mesh.Formation {
	out := mesh.Formation{}
	for name := range services {
		n, said := st.Formation[name]
		if !said {
			n = 1
		}
		out[name] = n
	}
	return out
}

// Heroku's names for the instance and the commit, and Dokku's for the commit. Config vars
// win over them.
const (
	envDyno     = "DYNO"
	envSource   = "SOURCE_VERSION"
	envRevision = "GIT_REV"
)

// env returns the environment of an instance, or of a command with the config vars of the
// service as, which may be empty.
func env(r mesh.Release, name mesh.InstanceName, as mesh.ServiceName) map[string]mesh.Secret {
	e := map[string]mesh.Secret{envDyno: mesh.NewSecret(name.String())}
	if r.Commit != "" {
		e[envRevision] = mesh.NewSecret(string(r.Commit))
		e[envSource] = e[envRevision]
	}
	maps.Copy(e, r.ConfigOf(as))
	for k, v := range map[string]string{
		"PORT":          strconv.Itoa(mesh.Port),
		"MESH_STACK":    string(r.Stack),
		"MESH_SERVICE":  string(name.Service),
		"MESH_INSTANCE": name.String(),
		"MESH_RELEASE":  r.Number.String(),
	} {
		e[k] = mesh.NewSecret(v)
	}
	return e
}

// specs returns one spec for each instance of a release; mounts are those of the services. It fails before anything
// starts if a command cannot run in the image.
func specs(st mesh.Stack, r mesh.Release, dep mesh.DeploymentNumber, mounts map[mesh.ServiceName][]mesh.Mount) ([]mesh.InstanceSpec, error) {
	var out []mesh.InstanceSpec
	for _, svc := range r.Formation.Services() {
		s := r.Services[svc]
		for slot := 1; slot <= r.Formation[svc]; slot++ {
			name := mesh.InstanceName{Service: svc, Slot: slot}
			e := env(r, name, svc)
			p, err := manifest.Process(s.Command, r.Image, e)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", svc, err)
			}
			spec := mesh.InstanceSpec{
				Stack: st.Name, Name: name, Release: r.Number, Deployment: dep, Image: r.Image.ID, Process: p, Env: e,
				Subnet: st.Subnet, Memory: s.Memory, CPUs: s.CPUs, Mounts: mounts[svc], On: s.On,
			}
			spec.Fingerprint = fingerprint(spec)
			out = append(out, spec)
		}
	}
	return out, nil
}

// fingerprint is equal for specs that run the same thing, even in different releases,
// so scaling keeps existing instances.
func fingerprint(s mesh.InstanceSpec) string {
	plain := map[string][]byte{}
	for k, v := range s.Env {
		if k != "MESH_RELEASE" {
			plain[k] = []byte(v.Reveal())
		}
	}
	// They say nothing new, and instances from before mesh set them run the same thing.
	if string(plain[envDyno]) == s.Name.String() {
		delete(plain, envDyno)
	}
	if plain[envRevision] != nil && string(plain[envSource]) == string(plain[envRevision]) {
		delete(plain, envSource)
	}
	runs := []any{s.Name.String(), s.Image, s.Process, plain, s.Memory, s.CPUs}
	if len(s.Mounts) > 0 { // without, it is what it was before there were volumes
		runs = append(runs, s.Mounts)
	}
	if len(s.On) > 0 {
		runs = append(runs, s.On)
	}
	data, err := json.Marshal(runs)
	if err != nil {
		panic(err) //nolint:forbidigo // every value above can be encoded
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:12])
}
