package mesh

import (
	"context"
	"time"
)

// FileTimes is what a stack remembers of the modification times that its files
// had in its builds. Git keeps no times. What a build leaves in a cache mount is
// compared with them by make, cargo and tsc, and what it puts into an image is
// compared with them by HTTP clients.
//
// The zero value remembers nothing.
type FileTimes struct {
	// First is when this memory began. Whole says that the stack had no build before
	// it: otherwise something was forgotten.
	First time.Time
	Whole bool
	// Latest is a time that nothing is later than which a build was given or has
	// made, stand-ins excepted.
	Latest time.Time
	// Files are those of the last build that was begun, whatever became of it, by
	// the first 8 bytes of the SHA-256 of their paths.
	Files map[uint64]FileTime
	// Past are files as they were before they changed or went, the oldest first:
	// hashes of path and content together. Its length is limited.
	Past []uint64
}

// FileTime is the time of one file, folder or link.
type FileTime struct {
	Of    uint64    // hash of mode and content
	Since time.Time // the time it got when it became what it is
	Time  time.Time // the time it has: Since, or a later one for a stand-in
	Back  bool      // it was the same before, and something else in between
}

// TimeKeeper keeps the FileTimes of one stack from one build to the next. It is
// used by one build at a time.
type TimeKeeper interface {
	// FileTimes returns the zero value when nothing is kept, or when what is kept
	// cannot be read.
	FileTimes(ctx context.Context) (FileTimes, error)
	// KeepFileTimes has it on disk when it returns.
	KeepFileTimes(ctx context.Context, t FileTimes) error
}
