package mesh

import (
	"io/fs"
	"path"
	"strings"
	"time"
)

// MaxCopy limits the content of one copy into an instance, in bytes.
const MaxCopy = 1 << 30

// File is a file in the container of an instance.
type File struct {
	Name     string // the last part of its path
	Size     int64  // bytes
	Mode     fs.FileMode
	Modified time.Time
	Link     string // where a symbolic link leads; empty for others
}

// InstancePath is a file or folder in the container of an instance: "web.1:/app/log".
type InstancePath struct {
	Instance string // as typed: an instance, or a service
	Path     string // absolute and clean; with a final slash if it was typed with one
}

// ParseInstancePath reads INSTANCE:PATH. The path begins at the root of the container,
// also without a slash.
func ParseInstancePath(s string) (InstancePath, error) {
	name, p, ok := strings.Cut(s, ":")
	if !ok || name == "" {
		return InstancePath{}, Errorf(Invalid, "%q does not name a file in an instance", Clip(s, 80)).WithHint("use INSTANCE:PATH, such as web.1:/app/log.txt")
	}
	clean, err := CleanPath(p)
	if err != nil {
		return InstancePath{}, err
	}
	return InstancePath{name, clean}, nil
}

// maxFilePath is PATH_MAX of Linux.
const maxFilePath = 4096

// CleanPath returns a path in a container as an absolute one, without "." and "..". A
// final slash stays: it means a folder.
func CleanPath(p string) (string, error) {
	if strings.ContainsRune(p, 0) || len(p) > maxFilePath {
		return "", Errorf(Invalid, "%q is not a path", Clip(Visible(p), 80))
	}
	clean := path.Clean("/" + p)
	if clean != "/" && strings.HasSuffix(p, "/") {
		clean += "/"
	}
	return clean, nil
}
