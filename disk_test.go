package mesh_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"mesh"
)

func TestTellNoRoom(t *testing.T) {
	t.Parallel()
	for errno, want := range map[syscall.Errno]string{syscall.ENOSPC: "disk is full", syscall.EDQUOT: "quota is used up", syscall.EROFS: "is read-only"} {
		cause := fmt.Errorf("write it: %w", &fs.PathError{Op: "write", Path: "/x", Err: errno})
		err := mesh.TellNoRoom(cause)
		var e *mesh.Error
		if !errors.As(err, &e) || e.Hint == "" || !strings.Contains(e.Text, want) || !errors.Is(err, mesh.Unavailable) || !mesh.NoRoom(err) {
			t.Errorf("%v: %v", errno, err)
		}
		if again := mesh.TellNoRoom(err); again.Error() != err.Error() {
			t.Errorf("told twice: %v", again)
		}
	}
	if err := errors.New("else"); mesh.TellNoRoom(err) != err || mesh.NoRoom(nil) || mesh.TellNoRoom(nil) != nil { //nolint:errorlint // the same one
		t.Error("another error was changed")
	}
}
