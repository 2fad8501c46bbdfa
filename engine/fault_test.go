package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"mesh"
	"mesh/engine"
)

func TestFault(t *testing.T) {
	t.Parallel()
	gone, cancel := context.WithCancelCause(t.Context())
	why := mesh.Errorf(mesh.Cancelled, "the client hung up")
	cancel(why)
	mine := mesh.Errorf(mesh.NotFound, "no such image")
	for name, c := range map[string]struct {
		ctx  context.Context
		err  error
		kind mesh.Kind
		text string
	}{
		"cut":           {t.Context(), fmt.Errorf("read: %w", io.ErrUnexpectedEOF), mesh.Unavailable, "the Docker Engine does not answer at unix:///x"},
		"refused":       {t.Context(), syscall.ECONNREFUSED, mesh.Unavailable, "the Docker Engine does not answer at unix:///x"},
		"disk full":     {t.Context(), errors.New("write /var/lib: no space left on device"), mesh.Unavailable, "the server's disk is full"},
		"for people":    {t.Context(), mine, mesh.NotFound, "no such image"},
		"caller gone":   {gone, io.EOF, mesh.Cancelled, "list: cancelled"},
		"mesh's own":    {t.Context(), errors.New("boom"), "", "list: boom"},
		"nothing":       {t.Context(), nil, "", ""},
		"ended, no err": {gone, nil, "", ""},
	} {
		err := engine.Fault(c.ctx, "unix:///x", "list", c.err)
		switch {
		case c.text == "":
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case err == nil || err.Error() != c.text || c.kind != "" && !errors.Is(err, c.kind):
			t.Errorf("%s: %v, want %s %q", name, err, c.kind, c.text)
		case c.ctx == gone && !errors.Is(err, why):
			t.Errorf("%s: it does not say why: %v", name, err)
		}
		var e *mesh.Error
		if errors.As(err, &e) && e.Kind == mesh.Unavailable && !strings.Contains(e.Hint, "server") {
			t.Errorf("%s: nothing to do about it: %q", name, e.Hint)
		}
	}
}
