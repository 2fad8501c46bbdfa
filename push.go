package mesh

import "strings"

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

// Upload is a source that arrives without git: a tree, or a prebuilt image.
type Upload struct {
	Stack      StackName
	By         KeyName
	Tree       Tree   // nil if From is given
	ID         string // identifies the tree's content, in hex
	Subject    string // a description for the record: "the working directory at 1a2b3c4"
	Dockerfile string // path in the tree, instead of the stack's setting
	From       From
	NoCache    bool // run every build step again
	DryRun     bool // build, then stop; nothing changes
}

// Push is a commit to deploy.
type Push struct {
	Stack   StackName
	By      KeyName
	Branch  string // empty: a tag, with -o deploy
	Commit  Commit
	Force   bool // -o deploy: build even if no watched file has changed
	NoCache bool // -o no-cache: run every build step again
	DryRun  bool // -o dry-run: build, then stop; nothing changes
	Detach  bool // -o detach: do not wait for the result
}
