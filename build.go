package mesh

import (
	"io"
	"io/fs"
	"time"
)

// Tree is a source tree that lies nowhere on disk: what was pushed. It may be
// used from several goroutines until whoever opened it closes it.
type Tree interface {
	// Entries lists all paths depth first; the names of each folder are in byte
	// order ("a", "a/x", "a.b"), which is not git's order. The caller must not
	// change the slice.
	Entries() []TreeEntry
	// Open reads the regular file at entry e of Entries.
	Open(e TreeEntry) (io.ReadCloser, error)
}

// TreeEntry is one path of a Tree.
type TreeEntry struct {
	Path string      // relative, separated by '/', as the tree has it: not always valid UTF-8
	Mode fs.FileMode // type and permissions: 0644, 0755, fs.ModeDir|0755, fs.ModeSymlink|0777
	Size int64       // bytes, of a regular file
	Link string      // target of a symbolic link
	ID   string      // content hash in hex; empty for a folder
	// Module is the commit of a submodule, whose folder is empty here.
	Module string
}

// Build is what the builder is asked for.
type Build struct {
	Stack      StackName
	Deployment DeploymentNumber
	Commit     Commit
	Tree       Tree     // nil when From is given
	Settings   Settings // how to build; what only others need to know is not looked at
	From       From     // a prebuilt image instead of a tree
	Config     Config   // build args where the Dockerfile declares them, secrets by the same ids
	Tags       []string
	Labels     map[string]string
	NoCache    bool
	// May tells whose images of other stacks may be built from; nil: all of them. A
	// key that is limited to stacks has it.
	May   func(StackName) bool
	Fresh bool // build also when the same was built before; steps may come from the cache
	// Times remembers the times of the tree's files; nil: they are what their content
	// makes them, the same in every build.
	Times TimeKeeper
}

// From names a prebuilt image. The zero value names none.
type From struct {
	Ref     string    // as people write it: "redis:7", "ghcr.example/app@sha256:…"
	Archive io.Reader // what "docker save" has written, Ref among it; nil: a registry has it
	Local   bool      // take the engine's own copy and ask no registry
	Public  bool      // take only what a registry gives: the engine may have what is somebody else's
}

// Image is a built or pulled image, as far as running it needs to know.
type Image struct {
	ID         string // what the engine calls it: identity
	Ref        string // "mesh/blog:1a2b3c4", for people
	Digest     string // of the prebuilt image that it was made from: "redis@sha256:…"; else empty
	Size       int64  // bytes
	Entrypoint []string
	Cmd        []string
	Shell      bool // has an executable /bin/sh
	Work       Work // how it was built; not recorded
}

// Garbage is an image that nothing needs.
type Garbage struct {
	Stack StackName
	ID    string
	Refs  []string // its names, as far as they are mesh's
	Size  int64    // bytes, with what it shares with other images
}

// Work is how a build went.
type Work struct {
	Reused  bool // the image was there already
	Steps   int
	Cached  int    // of the steps
	Slowest string // the step that took longest, when one took any time
	Took    time.Duration
}
