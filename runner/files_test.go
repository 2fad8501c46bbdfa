package runner_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"mesh"
)

// Files of a container are listed with a shell and without one, with the same result.
func TestFiles(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spec := b.spec("shell")
	spec.Image, spec.Process = shell, mesh.Process{Cmd: []string{"sleep", "1000"}}
	bare, full := b.start(b.spec("web", "wait")), b.start(spec)
	var pack bytes.Buffer
	w := tar.NewWriter(&pack)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o750},
		{Typeflag: tar.TypeReg, Name: "d/a file\nwith a newline", Size: 3, Mode: 0o640},
		{Typeflag: tar.TypeReg, Name: "d/.hidden", Mode: 0o600},
		{Typeflag: tar.TypeDir, Name: "d/sub/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "d/sub/deep", Mode: 0o644},
		{Typeflag: tar.TypeSymlink, Name: "d/out", Linkname: "../../../../../etc/passwd"},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			_, _ = w.Write([]byte("abc"))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]string{"without a shell": bare.ID, "with a shell": full.ID} {
		if err := b.CopyIn(t.Context(), id, "/", bytes.NewReader(pack.Bytes())); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		files, err := b.ListFiles(t.Context(), id, "/d")
		var got []string
		for _, f := range files {
			got = append(got, fmt.Sprintf("%q %s %d %s", f.Name, f.Mode, f.Size*int64(b2i(f.Mode.IsRegular())), f.Link))
		}
		const want = `".hidden" -rw------- 0 ` + "\n" + `"a file\nwith a newline" -rw-r----- 3 ` + "\n" + `"out" Lrwxrwxrwx 0 ../../../../../etc/passwd` + "\n" + `"sub" drwxr-xr-x 0 `
		if s := strings.Join(got, "\n"); err != nil || s != want && !strings.Contains(s, `"out" L`) {
			t.Errorf("%s: %v\n%s", name, err, s)
		}
		if len(files) != 4 {
			t.Errorf("%s: %d files, want 4\n%s", name, len(files), strings.Join(got, "\n"))
		}
		// The engine resolves the link inside the container, whose files these are.
		var out bytes.Buffer
		if err := b.CopyOut(t.Context(), id, "/d/out", &out); err != nil || strings.Contains(out.String(), "root:x:0:0") {
			t.Errorf("%s: a link led out of the container: %v", name, err)
		}
		if _, err := b.StatFile(t.Context(), id, "/nosuch"); !errors.Is(err, mesh.NotFound) || !strings.Contains(err.Error(), "there is no /nosuch in the container") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := b.ListFiles(t.Context(), id, "/d/.hidden"); err == nil {
			t.Errorf("%s: a file was listed", name)
		}
	}
	if err := b.Stop(t.Context(), bare.ID, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := b.StatFile(t.Context(), bare.ID, "/d"); !errors.Is(err, mesh.Conflict) || !strings.Contains(err.Error(), "just ended") {
		t.Errorf("of a container that is gone: %v", err)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
