package deploy_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"mesh"
	"mesh/deploy/deploytest"
)

type entry struct {
	name, content, link string
	kind                byte
}

func archive(t *testing.T, entries ...entry) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Mode: 0o4755, Uid: 1000, Uname: "ann", Size: int64(len(e.content))}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// Where a copy goes, and what it may contain.
func TestCopyTo(t *testing.T) {
	bubble(t, func(t *testing.T, w *deploytest.World) {
		d, _ := w.Start()
		mustPush(t, w, d, app)
		web := mesh.InstanceName{Service: "web", Slot: 1}
		files := func(folder string) string {
			all, err := d.ListFiles(t.Context(), "blog", web, folder)
			var out []string
			for _, f := range all {
				out = append(out, f.Name)
			}
			return fmt.Sprint(out, err)
		}
		for _, c := range []struct {
			to      string
			content *bytes.Buffer
			folder  string
			want    string
		}{
			{"/tmp", archive(t, entry{name: "a", content: "A"}), "/tmp", "[a] <nil>"},
			{"/tmp/", archive(t, entry{name: "./", kind: tar.TypeDir}, entry{name: "./b", content: "B"}), "/tmp", "[a b] <nil>"},
			{"/tmp/c", archive(t, entry{name: "x", content: "C"}), "/tmp", "[a b c] <nil>"},
			{"/d", archive(t, entry{name: "x/", kind: tar.TypeDir}, entry{name: "x/1", content: "1"}, entry{name: "x/2", kind: tar.TypeLink, link: "x/1"}), "/d", "[1 2] <nil>"},
			{"/d", archive(t, entry{name: "../../../etc/e", content: "E"}, entry{name: "/abs", content: "F"}), "/d/etc", "[e] <nil>"},
		} {
			if err := d.CopyTo(t.Context(), "blog", "ci", web, c.to, c.content); err != nil {
				t.Errorf("to %s: %v", c.to, err)
			}
			if got := files(c.folder); got != c.want {
				t.Errorf("to %s: %s, want %s", c.to, got, c.want)
			}
		}
		f, err := d.StatFile(t.Context(), "blog", web, "/tmp/c")
		if err != nil || f.Mode.Perm() != 0o755 || f.Size != 1 {
			t.Errorf("%+v, %v", f, err)
		}
		var out bytes.Buffer
		if err := d.CopyFrom(t.Context(), "blog", "ci", web, "/tmp/c", &out); err != nil {
			t.Fatal(err)
		}
		if h, err := tar.NewReader(&out).Next(); err != nil || h.Uid != 0 || h.Uname != "" || h.Name != "c" {
			t.Errorf("%+v, %v", h, err)
		}
		for _, c := range []struct {
			to      string
			content io.Reader
			want    error
			text    string
		}{
			{"/nosuch/", archive(t, entry{name: "a"}), mesh.NotFound, "there is no folder /nosuch/ in web.1"},
			{"/nosuch/a", archive(t, entry{name: "a"}), mesh.NotFound, "there is no folder /nosuch in web.1"},
			{"/tmp/new", archive(t, entry{name: "a"}, entry{name: "b"}), mesh.Invalid, "a and b cannot both become new"},
			{"/tmp", archive(t, entry{name: "pipe", kind: tar.TypeFifo}), mesh.Invalid, "pipe is not a file, folder or link"},
			{"/tmp", archive(t, entry{name: "dev", kind: tar.TypeChar}), mesh.Invalid, "dev is not a file, folder or link"},
			{"/tmp", strings.NewReader("text"), mesh.Invalid, "the input is not a tar file"},
			{"/tmp", strings.NewReader(""), mesh.Invalid, "the input is empty"},
			{"/tmp", io.LimitReader(archive(t, entry{name: "long", content: strings.Repeat("x", 4000)}), 2000), mesh.Invalid, "the input ended early"},
		} {
			if err := d.CopyTo(t.Context(), "blog", "ci", web, c.to, c.content); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("to %s: %v, want %s", c.to, err, c.text)
			}
		}
		var large bytes.Buffer
		if err := tar.NewWriter(&large).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "large", Size: mesh.MaxCopy + 1}); err != nil {
			t.Fatal(err)
		}
		if err := d.CopyTo(t.Context(), "blog", "ci", web, "/tmp", &large); !errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), "larger than 1024 MB") {
			t.Errorf("too large: %v", err)
		}
		none := mesh.InstanceName{Service: "web", Slot: 9}
		if err := d.CopyTo(t.Context(), "blog", "ci", none, "/tmp", archive(t, entry{name: "a"})); !errors.Is(err, mesh.NotFound) {
			t.Errorf("into an instance that does not run: %v", err)
		}
	})
}
