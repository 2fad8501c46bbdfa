package mesh

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// ErrOutside is a link of a tree that leads out of it.
var ErrOutside = errors.New("leads out of the tree")

// maxLinks is how many links are followed on the way to one file, as in Linux
// (path_resolution(7)).
const maxLinks = 40

// FollowLinks returns the entry of a tree that a path means, with symbolic links in any
// of its parts followed inside the tree. lookup finds an entry by its whole path. The
// tree itself is a folder without a path. The error is fs.ErrNotExist when there is
// none, and ErrOutside when a link leads out of the tree; an absolute one does.
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
