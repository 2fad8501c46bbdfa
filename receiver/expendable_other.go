//go:build !linux

package receiver

// expendable is for Linux.
func expendable(int) {}
