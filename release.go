package mesh

import (
	"time"
)

// Release is an image, config, formation and commands under a number. It never
// changes once it is recorded.
type Release struct {
	Stack       StackName
	Number      ReleaseNumber
	Created     time.Time
	By          KeyName
	Description string // "Deploy 1a2b3c4", "Set GREETING", "Rollback to v3"
	Deployment  DeploymentNumber
	Commit      Commit // that the image was built from; empty if not from git
	Elsewhere   bool   // Commit is in the repository of the stack that this was promoted from
	Staged      bool   // it has never been current
	Source      string // what the image was made from, if not from a push: "an upload of 1a2b3c4", "the image redis:7"
	Declared    Declared
	Image       Image
	Config      Config // the stack's own
	Global      Config // of all stacks, below Config; a rollback does not bring them back
	Formation   Formation
	Services    map[ServiceName]Service
}

// Here reports whether the release was built from a commit in the stack's own
// repository.
func (r Release) Here() bool { return r.Commit != "" && !r.Elsewhere }

// ConfigOf returns the config vars that the instances of a service get: its own over the
// stack's over those of all stacks. An empty name stands for builds and for commands that
// run for no service.
func (r Release) ConfigOf(name ServiceName) Config {
	return r.Services[name].Config.Over(r.Config.Over(r.Global))
}

// Configs returns all config vars of the release, for masking their values.
func (r Release) Configs() []Config {
	all := []Config{r.Global, r.Config}
	for _, s := range r.Services {
		all = append(all, s.Config)
	}
	return all
}

// Declared is what the files of a release's tree declare: Procfile, mesh.toml,
// app.json and heroku.yml. Settings that people make with commands override it.
type Declared struct {
	Commands map[ServiceName]string // of the services, including the release command; nil: no files were read
	Files    map[ServiceName]string // the file that each of them comes from
	Settings Settings
	Jobs     []Job // by name
}
