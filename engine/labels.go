package engine

// The labels by which mesh finds again what it has made in the engine. Every list asks for
// LabelServer: several servers may use one engine.
const (
	LabelServer = "mesh.server" // the id of the server
	LabelStack  = "mesh.stack"  // whose it is; absent: no stack's
	LabelKind   = "mesh.kind"   // "instance", "oneoff", "addon"
	LabelSpec   = "mesh.spec"   // equal if it runs the same thing
)

// Prefix begins the names of what a server has in the engine. It has only the first
// characters of its id, so that names stay readable; LabelServer has the whole id.
func Prefix(server string) string { return "mesh-" + server[:min(8, len(server))] + "-" }
