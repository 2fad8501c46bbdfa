package addons

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"mesh"
)

// A text that psql or mysql reads can end anywhere: the line at its end says that it is whole.
func TestCutOff(t *testing.T) {
	t.Parallel()
	all, err := builtIn()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind             mesh.AddonKind
		begin, end, want string
	}{
		{"postgres", "--\n-- PostgreSQL database dump\n--\n\n\\restrict x\n", "\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict x\n", ""},
		{"postgres", "--\n-- PostgreSQL database dump\n--\n", "41\tone\n42\ttw", `it does not end with "-- PostgreSQL database dump complete"`},
		{"postgres", "--\n-- PostgreSQL database cluster dump\n--\n", "--\n-- PostgreSQL database cluster dump complete\n--\n", ""},
		{"postgres", "--\n-- PostgreSQL database cluster dump\n--\n", "--\n-- PostgreSQL database dump complete\n--\n", "is cut off"},
		{"postgres", "CREATE TABLE t (n int);\n", "INSERT INTO t VALUES (1);\n", ""},
		{"mariadb", "/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19-11.4.5-MariaDB, for debian\n", "-- Dump completed on 2026-01-02  3:04:05\n", ""},
		{"mariadb", "-- MySQL dump 10.13  Distrib 8.4\n", "UNLOCK TABLES;\n", `it does not end with "-- Dump completed"`},
		{"mysql", "-- MySQL dump 10.13  Distrib 8.4\n", "INSERT INTO `t` VALUES (1);\n", "is cut off"},
	} {
		how, err := all[c.kind].reads(mesh.Addon{Kind: c.kind}, []byte(c.begin))
		if err != nil {
			t.Fatal(err)
		}
		if err := how.cutOff([]byte(c.begin), []byte(c.end)); (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, mesh.Invalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s, %q … %q: %v", c.kind, c.begin, c.end, err)
		}
	}
}

// What is read is remembered, and so is an error that the reader of the text does not see.
func TestSourced(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3*dumpTail) + "the end"
	in := newSourced(io.MultiReader(strings.NewReader(long), broken{}))
	if _, err := io.Copy(io.Discard, in); !errors.Is(err, errBroken) || !errors.Is(in.err, errBroken) {
		t.Errorf("%v, %v", err, in.err)
	}
	if len(in.tail) != dumpTail || !strings.HasSuffix(string(in.tail), "the end") {
		t.Errorf("%d bytes, %q", len(in.tail), in.tail)
	}
}

var errBroken = errors.New("the backup is damaged")

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errBroken }

// A tar that misses the volume would leave it empty.
func TestBelow(t *testing.T) {
	t.Parallel()
	pack := func(names ...string) io.Reader {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, n := range names {
			h := &tar.Header{Name: n, Mode: 0o600, Size: 3, Typeflag: tar.TypeReg}
			if strings.HasSuffix(n, "/") {
				h.Size, h.Typeflag = 0, tar.TypeDir
			}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if h.Size > 0 {
				_, _ = io.WriteString(w, "abc")
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return &b
	}
	for name, c := range map[string]struct {
		in   io.Reader
		want string
	}{
		"an export":    {pack("data/", "data/a", "data/b/c"), ""},
		"with a dot":   {pack("./data/", "./data/a"), ""},
		"its content":  {pack("./", "./a"), `"./", which is not in the folder data`},
		"beside it":    {pack("data/", "etc/passwd"), `"etc/passwd", which is not in the folder data`},
		"leads out":    {pack("data/../etc/passwd"), "which is not in the folder data"},
		"a like name":  {pack("database/a"), "which is not in the folder data"},
		"nothing":      {strings.NewReader(""), "is not a tar with the folder data"},
		"no tar":       {strings.NewReader(strings.Repeat("hello ", 200)), "is not a tar with the folder data"},
		"a broken one": {io.MultiReader(io.LimitReader(pack("data/", "data/a"), 1100), broken{}), "damaged"},
	} {
		out, fault := below("data", c.in)
		_, err := io.Copy(io.Discard, out)
		_ = out.CloseWithError(io.ErrClosedPipe)
		if ferr := fault(); (err == nil) != (c.want == "") || (ferr == nil) != (err == nil) || err != nil && !strings.Contains(ferr.Error(), c.want) {
			t.Errorf("%s: %v, %v", name, err, ferr)
		}
	}
	// Who reads gives up.
	out, fault := below("data", pack("data/", "data/a", "data/b"))
	_, _ = out.Read(make([]byte, 10))
	_ = out.CloseWithError(io.ErrClosedPipe)
	if err := fault(); err != nil {
		t.Errorf("given up: %v", err)
	}
}
