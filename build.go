package mesh

import (
	"io"
	"time"
)

// Build is what the builder is asked to build.
type Build struct {
	Stack      StackName
	Deployment DeploymentNumber
	Commit     Commit
	Tree       Tree     // nil if From is given
	Settings   Settings // how to build; the builder ignores the other settings
	From       From     // a prebuilt image instead of a tree
	Config     Config   // build args where the Dockerfile declares them, secrets with the same ids
	Tags       []string
	Labels     map[string]string
	NoCache    bool
	// May reports whether the images of another stack may be built from; nil: all
	// may. It is set for a key that is limited to stacks.
	May   func(StackName) bool
	Fresh bool // build even if the same was built before; steps may come from the cache
	// Times remembers the times of the tree's files; nil: their times depend only on
	// their content and are the same in every build.
	Times TimeKeeper
	// Kin are stacks whose images of the same tree may be used instead of a build.
	Kin []Kin
}

// Kin is a stack that shares a repository with another one: a preview, or the stack that
// it belongs to.
type Kin struct {
	Stack StackName
	Times TimeKeeper
}

// From names a prebuilt image. The zero value names none.
type From struct {
	Ref     string    // as people write it: "redis:7", "ghcr.example/app@sha256:…"
	Archive io.Reader // the output of "docker save", which contains Ref; nil: from a registry
	Local   bool      // use the engine's own copy without asking a registry
	Public  bool      // use only what a registry provides: the engine's copy may belong to somebody else
}

// Work describes how a build went.
type Work struct {
	Reused  bool // the image already existed
	Steps   int
	Cached  int    // of the steps
	Slowest string // the step that took longest, if any took time
	Took    time.Duration
}
