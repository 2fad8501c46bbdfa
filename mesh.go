// Package mesh is the vocabulary of mesh, a git-push PaaS in one binary: the
// names, records and errors that its packages exchange.
//
// It imports only the standard library, does no I/O and starts no goroutines. The
// packages below it work with these values; docs/architecture.md has the map.
package mesh

// Port is the TCP port that every instance is told to listen on, in $PORT. It is the
// same for all: each container has its own address, so nothing can collide and
// nothing is published on the host.
const Port = 8080
