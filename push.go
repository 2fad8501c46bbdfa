package mesh

import "strings"

// RefUpdate is one line of a push: a ref that is to move.
type RefUpdate struct {
	Ref string // "refs/heads/main"
	Old Commit // empty: the ref is new
	New Commit // empty: the ref is deleted
}

// Branch is the branch's name, or empty when the ref is no branch.
func (r RefUpdate) Branch() string {
	b, ok := strings.CutPrefix(r.Ref, "refs/heads/")
	if !ok {
		return ""
	}
	return b
}

// Tag is the tag's name, or empty when the ref is no tag.
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

// Upload is a source that comes without git: a tree, or a prebuilt image.
type Upload struct {
	Stack      StackName
	By         KeyName
	Tree       Tree   // nil when From is given
	ID         string // identifies the tree's content, in hex
	Subject    string // what it is, for the record: "the working directory at 1a2b3c4"
	Dockerfile string // path in the tree, instead of the stack's setting
	From       From
	NoCache    bool // build every step anew
	DryRun     bool // build, then stop; nothing changes
}

// Push is a commit on its way to be deployed.
type Push struct {
	Stack   StackName
	By      KeyName
	Branch  string // empty: a tag, with -o deploy
	Commit  Commit
	Force   bool // -o deploy: also what touches nothing that is watched
	NoCache bool // -o no-cache: build every step anew
	DryRun  bool // -o dry-run: build, then stop; nothing changes
	Detach  bool // -o detach: do not wait for the verdict
}
