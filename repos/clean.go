package repos

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"mesh"
)

// neededRefs are the commits of releases, whose images may have to be built again. They
// are written before a repository is cleaned.
const neededRefs = "refs/mesh/needed/"

// cleanSlack is how many bytes of packs a repository may have beyond twice its size
// after the last cleaning. Objects of pushes that were refused long ago are in no ref;
// without cleaning they would be kept forever.
const cleanSlack = 64 << 20

// sizeFile holds the bytes of packs after the last cleaning.
const sizeFile = "mesh-cleaned"

func packBytes(repo string) (n int64) {
	packs, _ := filepath.Glob(filepath.Join(repo, "objects", "pack", "*.pack")) // the pattern is sound
	for _, p := range packs {
		if info, err := os.Stat(p); err == nil {
			n += info.Size()
		}
	}
	return n
}

// clean removes objects that nothing needs, if there may be many. The caller holds
// r.mu, and no push is in progress. clean keeps what a branch, a tag, a release, a
// submodule or one of the last refused pushes needs.
func (r *Repos) clean(ctx context.Context, stack mesh.StackName, slack int64) error {
	repo := r.path(stack)
	var last int64
	if data, err := os.ReadFile(filepath.Join(repo, sizeFile)); err == nil {
		last, _ = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	}
	if r.Needed == nil || packBytes(repo) <= 2*last+slack {
		return nil
	}
	needed, err := r.Needed(ctx, stack)
	if err != nil {
		return err
	}
	if err := r.pin(ctx, stack, needed); err != nil {
		return err
	}
	_, err = r.run(ctx, stack, "repack", "-a", "-d", "-q")
	// Write it even after an error, so that a cleaning that takes too long is not tried
	// with every push.
	path := filepath.Join(repo, sizeFile)
	if werr := os.WriteFile(path, []byte(strconv.FormatInt(packBytes(repo), 10)+"\n"), 0o600); err == nil {
		err = werr
	}
	return err
}

// pin sets the refs below neededRefs to the given commits, as far as they exist.
func (r *Repos) pin(ctx context.Context, stack mesh.StackName, needed []mesh.Commit) error {
	out, err := r.run(ctx, stack, "for-each-ref", "--format=%(objectname)", neededRefs)
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for id := range strings.FieldsSeq(out) {
		have[id] = true
	}
	st := r.storage(stack)
	defer st.Close()
	for _, c := range needed {
		if have[string(c)] {
			delete(have, string(c))
			continue
		}
		if here, err := st.has(c); err != nil {
			return err
		} else if !here {
			continue
		}
		if _, err := r.run(ctx, stack, "update-ref", neededRefs+string(c), string(c)); err != nil {
			return err
		}
	}
	for id := range have {
		if _, err := r.run(ctx, stack, "update-ref", "-d", neededRefs+id); err != nil {
			return err
		}
	}
	return nil
}
