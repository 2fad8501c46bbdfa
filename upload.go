package mesh

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
