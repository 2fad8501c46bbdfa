package repos

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mesh"
)

// keptRefs are commits whose deployment failed or has not ended: their objects stay, so
// that a retry sends nothing. Clients do not see these refs.
const (
	keptRefs  = "refs/mesh/kept/"
	keepCount = 5
)

// keep keeps a commit that no branch will point to.
func (r *Repos) keep(ctx context.Context, stack mesh.StackName, c mesh.Commit) error {
	if _, err := r.run(ctx, stack, "update-ref", keptRefs+string(c), string(c)); err != nil {
		return err
	}
	out, err := r.run(ctx, stack, "for-each-ref", "--format=%(refname)", "--sort=-committerdate", keptRefs)
	if err != nil {
		return err
	}
	for i, ref := range strings.Fields(out) {
		if i >= keepCount && ref != keptRefs+string(c) {
			if _, err := r.run(ctx, stack, "update-ref", "-d", ref); err != nil {
				return err
			}
		}
	}
	return nil
}

// kept returns the commits that clients need not send again.
func (r *Repos) kept(stack mesh.StackName) []mesh.Commit {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if !dirHasEntries(filepath.Join(r.path(stack), keptRefs)) {
		return nil // the usual case needs no process
	}
	out, err := r.run(ctx, stack, "for-each-ref", "--format=%(objectname)", "--sort=-committerdate", "--count="+strconv.Itoa(keepCount), keptRefs)
	if err != nil {
		r.Logger.Warn("kept commits not listed", "stack", stack, "err", err)
		return nil
	}
	var commits []mesh.Commit
	for id := range strings.FieldsSeq(out) {
		if c, err := mesh.ParseCommit(id); err == nil {
			commits = append(commits, c)
		}
	}
	return commits
}

func dirHasEntries(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	return err == nil
}
