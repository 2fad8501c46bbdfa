// Package mesh is the vocabulary of mesh, a git-push PaaS in one binary: the
// names, records and errors that its packages hand to each other.
//
// It imports the standard library only, does no I/O and starts no goroutines.
// What is done with these values is left to the packages below it; see
// docs/architecture.md for the map.
package mesh

// Port is the TCP port that every instance is told to listen on, in $PORT.
// It is the same for all: each container has an address of its own, so nothing
// can collide and nothing is published on the host.
const Port = 8080
