package mesh_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"mesh"
)

func TestExitStatus(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{mesh.Errorf(mesh.Failed, "x"), 1},
		{mesh.Errorf(mesh.NotFound, "x"), 1},
		{mesh.Errorf(mesh.Conflict, "x"), 1},
		{mesh.Errorf(mesh.Denied, "x"), 1},
		{mesh.Errorf(mesh.Unavailable, "x"), 1},
		{mesh.Errorf(mesh.Invalid, "x"), 2},
		{mesh.Errorf(mesh.NoStack, "x"), 20},
		{mesh.Errorf(mesh.Cancelled, "x"), 130},
		{fmt.Errorf("wrapped: %w", mesh.Errorf(mesh.NoStack, "x")), 20},
		{&mesh.Reported{Err: mesh.Errorf(mesh.Cancelled, "x")}, 130},
		{errors.Join(errors.New("a"), mesh.Errorf(mesh.Invalid, "b")), 2},
		{mesh.Errorf(mesh.Failed, "around: %w", mesh.Errorf(mesh.NoStack, "x")), 20},
	} {
		if got := mesh.ExitStatus(tc.err); got != tc.want {
			t.Errorf("ExitStatus(%v) = %d, want %d", tc.err, got, tc.want)
		}
	}
}

func TestError_KindAndCause(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("open: %w", mesh.Errorf(mesh.Unavailable, "no disk: %w", fs.ErrPermission).WithHint("free %d MB", 5))
	if !errors.Is(err, mesh.Unavailable) || !errors.Is(err, fs.ErrPermission) || errors.Is(err, mesh.Failed) {
		t.Errorf("%v does not tell its kind and cause", err)
	}
	var e *mesh.Error
	if !errors.As(err, &e) || e.Text != "no disk: permission denied" || e.Hint != "free 5 MB" || e.Kind != mesh.Unavailable {
		t.Errorf("got %+v", e)
	}
	if k := mesh.Errorf(mesh.Conflict, "plain"); k.Err != nil || !errors.Is(k, mesh.Conflict) {
		t.Errorf("got %+v", k)
	}
	r := &mesh.Reported{Err: e}
	if r.Error() != e.Text || !errors.Is(r, mesh.Unavailable) {
		t.Errorf("a reported error hides its own: %v", r)
	}
}
