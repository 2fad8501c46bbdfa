package command

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"mesh"
)

// PrintError prints an error for a person, with its evidence and its hint. Internal errors go to the
// log; the person sees a short ID of the entry.
func (s *Commands) PrintError(w io.Writer, err error) {
	var reported *mesh.Reported
	if errors.As(err, &reported) {
		return
	}
	var e *mesh.Error
	if err = mesh.TellNoRoom(err); !errors.As(err, &e) {
		if errors.Is(err, context.Canceled) {
			return
		}
		var b [4]byte
		_, _ = rand.Read(b[:])
		id := hex.EncodeToString(b[:])
		s.Logger.Error("command failed", "id", id, "err", err)
		_, _ = fmt.Fprintf(w, "error: internal error (id %s)\nhint:  search the server's log for this id\n", id)
		return
	}
	if len(e.Output) > 0 {
		_, _ = fmt.Fprintln(w, "The last lines of its output:")
		for _, l := range e.Output {
			_, _ = fmt.Fprintln(w, "  "+mesh.Visible(l))
		}
	}
	_, _ = fmt.Fprintf(w, "error: %s\n", mesh.Visible(e.Text))
	for l := range strings.SplitSeq(e.Hint, "\n") {
		switch {
		case strings.HasPrefix(l, "usage: "):
			_, _ = fmt.Fprintln(w, mesh.Visible(l))
		case l != "":
			_, _ = fmt.Fprintf(w, "hint:  %s\n", mesh.Visible(l))
		}
	}
}
