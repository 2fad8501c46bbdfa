package mesh

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// ErrOutside is the error for a link that leads out of its tree.
var ErrOutside = errors.New("points outside the tree")

// maxLinks is the number of links that are followed on the way to one file, as in
// Linux (path_resolution(7)).
const maxLinks = 40

// FollowLinks returns the entry of a path in a tree, following symbolic links in any
// part of it inside the tree. lookup finds an entry by its complete path. The tree
// itself is a folder without a path. The error is fs.ErrNotExist if there is no such
// entry, and ErrOutside if a link points outside the tree; absolute links do.
func FollowLinks(name string, lookup func(path string) (TreeEntry, bool)) (TreeEntry, error) {
	var done []string
	rest := strings.Split(path.Clean(name), "/")
	at := TreeEntry{Mode: fs.ModeDir}
	for links := 0; len(rest) > 0; {
		next := rest[0]
		rest = rest[1:]
		switch next {
		case ".", "":
			continue
		case "..":
			if len(done) == 0 {
				return at, ErrOutside
			}
			done = done[:len(done)-1]
			continue
		}
		e, ok := lookup(strings.Join(append(done, next), "/"))
		if !ok {
			return e, fs.ErrNotExist
		}
		if e.Mode&fs.ModeSymlink == 0 {
			done = append(done, next)
			continue
		}
		if links++; links > maxLinks {
			return e, fmt.Errorf("too many links: %w", fs.ErrNotExist)
		}
		if path.IsAbs(e.Link) {
			return e, ErrOutside
		}
		rest = append(strings.Split(e.Link, "/"), rest...)
	}
	if len(done) > 0 {
		at, _ = lookup(strings.Join(done, "/"))
	}
	return at, nil
}

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
