package mesh

import (
	"context"
	"time"
)

// FileTimes is what a stack remembers of the modification times of its files in its
// builds. Git keeps no times. make, cargo and tsc compare them with what a build
// leaves in a cache mount, and HTTP clients with what it puts into an image.
//
// The zero value remembers nothing.
type FileTimes struct {
	// First is when this memory began. Whole means that the stack had no build
	// before it: otherwise something was lost.
	First time.Time
	Whole bool
	// Latest is at least as late as every time that a build was given or has
	// produced, except for placeholders.
	Latest time.Time
	// Files are those of the last build that was started, whatever its result, by
	// the first 8 bytes of the SHA-256 of their paths.
	Files map[uint64]FileTime
	// Past are earlier states of files that have changed or gone, oldest first:
	// hashes of path and content together. Its length is limited.
	Past []uint64
}

// FileTime is the time of one file, folder or link.
type FileTime struct {
	Of    uint64    // hash of mode and content
	Since time.Time // the time that it got with its current state
	Time  time.Time // its time now: Since, or a later one for a placeholder
	Back  bool      // it had the same state before, and another one in between
}

// TimeKeeper keeps the FileTimes of one stack from one build to the next. One build
// uses it at a time.
type TimeKeeper interface {
	// FileTimes returns the zero value if nothing is stored, or if it cannot be
	// read.
	FileTimes(ctx context.Context) (FileTimes, error)
	// When KeepFileTimes returns, the times are on disk.
	KeepFileTimes(ctx context.Context, t FileTimes) error
}
