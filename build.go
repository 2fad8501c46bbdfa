package mesh

import (
	"io"
	"io/fs"
	"time"
)

// Tree is a pushed source tree that is not checked out on disk. It may be used from
// several goroutines until its opener closes it.
type Tree interface {
	// Entries lists all paths depth first; the names of each folder are in byte
	// order ("a", "a/x", "a.b"), unlike git's order. The caller must not change the
	// slice.
	Entries() []TreeEntry
	// Open reads the regular file at entry e of Entries.
	Open(e TreeEntry) (io.ReadCloser, error)
}

// TreeEntry is one path of a Tree.
type TreeEntry struct {
	Path string      // relative, separated by '/', as in the tree: not always valid UTF-8
	Mode fs.FileMode // type and permissions: 0644, 0755, fs.ModeDir|0755, fs.ModeSymlink|0777
	Size int64       // bytes, of a regular file
	Link string      // target of a symbolic link
	ID   string      // content hash in hex; empty for a folder
	// Module is the commit of a submodule, whose folder is empty here.
	Module string
}

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
}

// From names a prebuilt image. The zero value names none.
type From struct {
	Ref     string    // as people write it: "redis:7", "ghcr.example/app@sha256:…"
	Archive io.Reader // the output of "docker save", which contains Ref; nil: from a registry
	Local   bool      // use the engine's own copy without asking a registry
	Public  bool      // use only what a registry provides: the engine's copy may belong to somebody else
}

// Image is a built or pulled image, as far as needed to run it.
type Image struct {
	ID         string // the engine's identity of it
	Ref        string // "mesh/blog:1a2b3c4", for people
	Digest     string // of the prebuilt image that it was made from: "redis@sha256:…"; otherwise empty
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
	Size  int64    // bytes, including what it shares with other images
}

// Work describes how a build went.
type Work struct {
	Reused  bool // the image already existed
	Steps   int
	Cached  int    // of the steps
	Slowest string // the step that took longest, if any took time
	Took    time.Duration
}
