package mesh

import (
	"maps"
	"slices"
	"strings"
)

// RefUpdate is one line of a push: a ref that should move.
type RefUpdate struct {
	Ref string // "refs/heads/main"
	Old Commit // empty: the ref is new
	New Commit // empty: the ref is deleted
}

// Branch is the name of the branch, or empty if the ref is not a branch.
func (r RefUpdate) Branch() string {
	b, ok := strings.CutPrefix(r.Ref, "refs/heads/")
	if !ok {
		return ""
	}
	return b
}

// CheckBranch returns an error for what git does not take as the name of a branch
// (git-check-ref-format(1)), and for a name that is too long to show.
func CheckBranch(s string) error {
	bad := s == "" || len(s) > 250 || strings.ContainsAny(s, " ~^:?*[\\\x7f") || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' })
	for _, part := range []string{"..", "//", "@{", "/."} {
		bad = bad || strings.Contains(s, part)
	}
	if bad || s == "@" || strings.HasPrefix(s, "/") || strings.HasPrefix(s, ".") || strings.HasSuffix(s, "/") || strings.HasSuffix(s, ".") || strings.HasSuffix(s, ".lock") {
		return Errorf(Invalid, "%q is not the name of a branch of at most 250 bytes", Clip(Visible(s), 60)).WithHint("push it under another name: git push mesh HEAD:NAME")
	}
	return nil
}

// Tag is the name of the tag, or empty if the ref is not a tag.
func (r RefUpdate) Tag() string {
	t, ok := strings.CutPrefix(r.Ref, "refs/tags/")
	if !ok {
		return ""
	}
	return t
}

// Tag is a git tag of a commit.
type Tag struct {
	Name   string
	Commit Commit
}

// Push is a commit to deploy.
type Push struct {
	Stack    StackName
	By       KeyName
	Branch   string // empty: a tag, with -o deploy
	Tag      string // that is deployed with -o deploy; empty: a branch
	Commit   Commit
	Force    bool   // -o deploy: build even if no watched file has changed
	NoCache  bool   // -o no-cache: run every build step again
	DryRun   bool   // -o dry-run: build, then stop; nothing changes
	Detach   bool   // -o detach: do not wait for the result
	NoSwitch bool   // -o no-switch: start it beside the current release, and leave it there
	Canary   string // -o canary=SHARES: instead of the setting; empty: not given
}

// RepoState is what a stack's repository must match.
type RepoState struct {
	Branch   string            // empty: no push yet
	Commit   Commit            // of the current release; empty: the branch must not exist
	Previews map[string]Commit // the branches of previews, with the commits of their current releases
}

// Head returns the commit that a branch must point to. It is empty if the branch must not
// exist.
func (s RepoState) Head(branch string) Commit {
	if branch == s.Branch {
		return s.Commit
	}
	return s.Previews[branch]
}

// Heads returns the branches that must exist, with their commits.
func (s RepoState) Heads() map[string]Commit {
	heads := map[string]Commit{}
	for branch := range s.Previews {
		heads[branch] = s.Head(branch)
	}
	heads[s.Branch] = s.Commit
	maps.DeleteFunc(heads, func(branch string, at Commit) bool { return branch == "" || at == "" })
	return heads
}

// BranchBeside returns a branch, of heads, that git cannot have beside a branch, because
// one of the names is a folder of the other: feature and feature/x (git-check-ref-format).
// Of several it returns the first by name; "" if there is none.
func BranchBeside(heads map[string]Commit, branch string) string {
	var found []string
	for h := range heads {
		if strings.HasPrefix(h, branch+"/") || strings.HasPrefix(branch, h+"/") {
			found = append(found, h)
		}
	}
	if len(found) == 0 {
		return ""
	}
	return slices.Min(found)
}
