package mesh

import (
	"errors"
	"syscall"
)

// NoRoom reports whether an error means that the disk accepts nothing at the moment:
// it is full (ENOSPC), over its quota (EDQUOT) or read-only (EROFS).
func NoRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS)
}

// TellNoRoom turns an error that NoRoom recognizes into one for people, and returns
// others unchanged. An error for people stays one.
func TellNoRoom(err error) error {
	var e *Error
	switch {
	case !NoRoom(err), errors.As(err, &e):
		return err
	case errors.Is(err, syscall.EROFS):
		return Errorf(Unavailable, "the server's disk is read-only: %w", err).
			WithHint("check the server's kernel log for disk errors (dmesg), and mount the disk writable again")
	case errors.Is(err, syscall.EDQUOT):
		return Errorf(Unavailable, "the server's disk quota is used up: %w", err).
			WithHint("raise the quota of the user that mesh runs as, or free space: docker system prune; then try again")
	}
	return Errorf(Unavailable, "the server's disk is full: %w", err).
		WithHint("free disk space on the server, e.g. with: docker system prune; then try again")
}
