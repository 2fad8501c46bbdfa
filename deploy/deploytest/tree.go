package deploytest

import (
	"crypto/sha1" //nolint:gosec // ids as git has them
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"mesh"
)

// Tree is a mesh.Tree of file contents by name.
type Tree map[string]string

// Entries returns the files and their folders.
func (t Tree) Entries() []mesh.TreeEntry {
	var out []mesh.TreeEntry
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		for i, c := range name {
			if dir := name[:i]; c == '/' && !seen[dir] {
				seen[dir] = true
				out = append(out, mesh.TreeEntry{Path: dir, Mode: fs.ModeDir | 0o755})
			}
		}
		out = append(out, mesh.TreeEntry{Path: name, Mode: 0o644, Size: int64(len(t[name])), ID: fmt.Sprintf("%x", sha1.Sum([]byte(t[name])))}) //nolint:gosec // see above
	}
	return out
}

// Open reads a file.
func (t Tree) Open(e mesh.TreeEntry) (io.ReadCloser, error) {
	text, ok := t[e.Path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(text)), nil
}
