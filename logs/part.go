package logs

import (
	"os"
	"path/filepath"
	"strings"
	"time"
)

// part is a file of a shelf, which is named ID.OWNER and the suffix of its kind. IDs are
// unique, and sort by age.
type part struct {
	path    string
	id      string // 16 hex digits
	owner   string // the process that made it
	size    int64
	changed time.Time
}

func partPath(dir, id, owner, suffix string) string {
	return filepath.Join(dir, id+"."+owner+suffix)
}

// listParts lists the files of one kind in a folder, oldest first. What is removed
// meanwhile is left out.
func listParts(dir, suffix string) ([]part, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	var out []part
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		id, owner, two := strings.Cut(name, ".")
		if !ok || !two || len(id) != 16 {
			continue
		}
		if info, err := e.Info(); err == nil {
			out = append(out, part{filepath.Join(dir, e.Name()), id, owner, info.Size(), info.ModTime()})
		}
	}
	return out, nil
}
