package mesh

// Damage describes a damaged record of the server: a flipped bit, or a value that
// this version does not know.
type Damage struct {
	Stack StackName // whose record; empty: no stack's
	What  string    // "release v3 of shop"
	Why   string    // "its checksum does not match its content"
	Whole bool      // the stack, or what it runs, cannot be read at all
}
