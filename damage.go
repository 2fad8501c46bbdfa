package mesh

// Damage is a record of the server's that is not what was written: a bit that the disk
// has changed, or a value that this mesh does not know.
type Damage struct {
	Stack StackName // whose; empty: it is no stack's
	What  string    // "release v3 of shop"
	Why   string    // "its checksum is not that of its content"
	Whole bool      // the stack cannot be read at all, or not what it runs
}
