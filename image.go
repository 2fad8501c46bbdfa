package mesh

// Image is a built or pulled image, as far as needed to run it.
type Image struct {
	ID         string // the engine's identity of it
	Ref        string // "mesh/blog:1a2b3c4", for people
	Digest     string // of the prebuilt image that it was made from: "redis@sha256:…"; otherwise empty
	Size       int64  // bytes
	Entrypoint []string
	Cmd        []string
	Shell      bool // has an executable /bin/sh
	Work       Work // how it was built; not recorded
}

// Garbage is an image that nothing needs.
type Garbage struct {
	Stack StackName
	ID    string
	Refs  []string // its names, as far as they are mesh's
	Size  int64    // bytes, including what it shares with other images
}
