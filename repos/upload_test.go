package repos

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mesh"
)

// tarOf makes an archive of headers; text that begins with "->" is a symbolic link,
// with "=>" a hard link.
func tarOf(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		name, text, _ := strings.Cut(f, "|")
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}
		switch {
		case strings.HasSuffix(name, "/"):
			h.Typeflag = tar.TypeDir
		case strings.HasPrefix(text, "->"):
			h.Typeflag, h.Linkname, h.Size, text = tar.TypeSymlink, text[2:], 0, ""
		case strings.HasPrefix(text, "=>"):
			h.Typeflag, h.Linkname, h.Size, text = tar.TypeLink, text[2:], 0, ""
		case strings.HasPrefix(text, "#!"):
			h.Mode = 0o700
		case text == "fifo":
			h.Typeflag, h.Size, text = tar.TypeFifo, 0, ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func listing(t *testing.T, tr mesh.Tree) string {
	t.Helper()
	var out []string
	for _, e := range tr.Entries() {
		s := e.Path
		switch {
		case e.Mode.IsDir():
			s += "/"
		case e.Mode&fs.ModeSymlink != 0:
			s += "->" + e.Link
		default:
			r, err := tr.Open(e)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err != nil || int64(len(data)) != e.Size {
				t.Errorf("%s: %d bytes of %d, %v", e.Path, len(data), e.Size, err)
			}
			s += fmt.Sprintf("|%s|%o", data, e.Mode)
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestUnpack_Tree(t *testing.T) {
	t.Parallel()
	r := openRepos(t)
	for name, c := range map[string]struct {
		files []string
		want  string
	}{
		"as tar writes it":     {[]string{"./", "./a|1", "./sub/", "./sub/b|22"}, "a|1|644 sub/ sub/b|22|644"},
		"without folders":      {[]string{"x/y/z|1"}, "x/ x/y/ x/y/z|1|644"},
		"order":                {[]string{"a.b|1", "a/x|2", "a-|3"}, "a/ a/x|2|644 a-|3|644 a.b|1|644"},
		"modes and links":      {[]string{"run|#!x", "l|->run", "h|=>run"}, "h|#!x|755 l->run run|#!x|755"},
		"the last one counts":  {[]string{"a|1", "a|22"}, "a|22|644"},
		"what git keeps":       {[]string{".git/config|x", ".gitignore|y", "a|1"}, ".gitignore|y|644 a|1|644"},
		"an empty file":        {[]string{"a|", "b|1"}, "a||644 b|1|644"},
		"names as they come":   {[]string{"a b|1", "new\nline|2", "\xff|3"}, "a b|1|644 new\nline|2|644 \xff|3|644"},
		"a link that goes out": {[]string{"a|->../../etc/passwd"}, "a->../../etc/passwd"},
	} {
		t.Run(name, func(t *testing.T) {
			data := tarOf(t, c.files...)
			var zipped bytes.Buffer
			z := gzip.NewWriter(&zipped)
			_, _ = z.Write(data)
			_ = z.Close()
			var ids []string
			for _, src := range [][]byte{data, zipped.Bytes()} {
				tr, id, release, err := r.Unpack(t.Context(), bytes.NewReader(src))
				if err != nil {
					t.Fatal(err)
				}
				if got := listing(t, tr); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
				ids = append(ids, id)
				release()
			}
			if ids[0] != ids[1] || len(ids[0]) != 64 {
				t.Errorf("ids %q", ids)
			}
		})
	}
	left, err := filepath.Glob(filepath.Join(r.dir, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Files have the IDs that git gives them, so that the builder's times and cache are the
// same for a push and an upload.
func TestUnpack_IDsAreGits(t *testing.T) {
	t.Parallel()
	r := openRepos(t)
	tr, _, release, err := r.Unpack(t.Context(), bytes.NewReader(tarOf(t, "a|hello\n", "l|->a")))
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for _, e := range tr.Entries() {
		text := "hello\n"
		if e.Link != "" {
			text = e.Link
		}
		cmd := exec.CommandContext(t.Context(), "git", "hash-object", "--stdin")
		cmd.Stdin = strings.NewReader(text)
		want, err := cmd.Output()
		if err != nil || e.ID != strings.TrimSpace(string(want)) {
			t.Errorf("%s is %s, git says %s, %v", e.Path, e.ID, want, err)
		}
	}
}

func TestUnpack_Refusals(t *testing.T) {
	t.Parallel()
	r := openRepos(t)
	r.MaxInput = 1 << 20
	var huge bytes.Buffer
	w := tar.NewWriter(&huge)
	_ = w.WriteHeader(&tar.Header{Name: "a", Mode: 0o644, Size: 1, Format: tar.FormatGNU})
	_, _ = w.Write([]byte("x"))
	_ = w.WriteHeader(&tar.Header{Name: "b", Mode: 0o644, Size: 1<<63 - 1, Format: tar.FormatGNU})
	_, _ = w.Write(make([]byte, 1<<20))
	wraps := huge.Bytes()
	whole := tarOf(t, "a|"+strings.Repeat("x", 100_000))
	random := make([]byte, 4096)
	for i := range random {
		random[i] = byte(i*7 + 1)
	}
	for name, c := range map[string]struct {
		data []byte
		text string
	}{
		"nothing":            {nil, "nothing on standard input"},
		"an empty tar":       {tarOf(t), "is empty"},
		"only .git":          {tarOf(t, ".git/config|x"), "is empty"},
		"no tar":             {random, "is not a tar"},
		"no gzip":            {[]byte("\x1f\x8bxxxxxxxxxxxx"), "not a gzip"},
		"cut off":            {whole[:len(whole)/2], "cut off"},
		"cut off early":      {whole[:300], "cut off"},
		"cut between files":  {whole[:512+100_352], "its end is missing"},
		"cut in the end":     {whole[:len(whole)-512], "its end is missing"},
		"xz":                 {[]byte("\xfd7zXZ\x00\x00"), "compressed with xz: mesh reads a tar, plain or with gzip"},
		"bzip2":              {[]byte("BZh91AY&SY"), "compressed with bzip2"},
		"zstd":               {[]byte("\x28\xb5\x2f\xfd\x04"), "compressed with zstd"},
		"zip":                {[]byte("PK\x03\x04\x14\x00"), "a zip archive"},
		"gzip twice":         {gzipped(gzipped(whole)), "compressed with gzip twice"},
		"climbs out":         {tarOf(t, "../a|1"), `"../a" points outside the tree`},
		"climbs out inside":  {tarOf(t, "a/../../b|1"), "points outside"},
		"absolute":           {tarOf(t, "/etc/passwd|1"), "points outside"},
		"a pipe":             {tarOf(t, "p|fifo"), `"p" is a device`},
		"below a file":       {tarOf(t, "a|1", "a/b|2"), `"a/b" is below "a"`},
		"below a link":       {tarOf(t, "a|->/etc", "a/b|2"), `"a/b" is below "a"`},
		"hard link to none":  {tarOf(t, "h|=>none"), "does not come before it"},
		"hard link out":      {tarOf(t, "h|=>../x"), "points outside"},
		"too large":          {tarOf(t, "a|"+strings.Repeat("x", 600_000), "b|"+strings.Repeat("x", 600_000)), "larger than 1 MB"},
		"too large by links": {tarOf(t, "a|"+strings.Repeat("x", 600_000), "b|=>a"), "its hard links counted"},
		"a size that wraps":  {wraps, "larger than 1 MB"},
		"a long link":        {tarOf(t, "l|->"+strings.Repeat("n", 5000)), "longer than 4096 bytes"},
		"a long name":        {tarOf(t, strings.Repeat("n/", 2100)+"a|1"), "longer than 4096 bytes"},
	} {
		_, _, _, err := r.Unpack(t.Context(), bytes.NewReader(c.data))
		var e *mesh.Error
		if !errors.As(err, &e) || !strings.Contains(e.Text, c.text) || e.Hint == "" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if left, _ := os.ReadDir(r.dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

// A file's name may begin like another format.
func TestUnpack_NameLikeAMagicNumber(t *testing.T) {
	t.Parallel()
	tr, _, release, err := openRepos(t).Unpack(t.Context(), bytes.NewReader(tarOf(t, "BZhistory|1")))
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if got := listing(t, tr); !strings.HasPrefix(got, "BZhistory") {
		t.Error(got)
	}
}

func FuzzUnpack(f *testing.F) {
	for _, s := range [][]string{{"a|1"}, {"a/b|1", "l|->a"}, {"h|=>a"}} {
		f.Add(tarOf(f, s...))
	}
	r := openRepos(f)
	r.MaxInput = 1 << 20
	f.Fuzz(func(t *testing.T, data []byte) {
		tr, _, release, err := r.Unpack(t.Context(), bytes.NewReader(data))
		if err != nil {
			return
		}
		defer release()
		if !slices.IsSortedFunc(tr.Entries(), func(a, b mesh.TreeEntry) int { return comparePaths(a.Path, b.Path) }) {
			t.Error("not in order")
		}
		for _, e := range tr.Entries() {
			if !fs.ValidPath(strings.ToValidUTF8(e.Path, "x")) {
				t.Errorf("path %q", e.Path)
			}
		}
		listing(t, tr)
	})
}
