package builder_test

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mesh"
	"mesh/builder"
)

// A changed file is at least a second later than before, whatever happened in
// between and whatever the clock says; an unchanged one keeps its time.
func TestNextTimes(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 3, 1, 12, 0, 0, 400_000_000, time.UTC)
	steps := []struct {
		name    string
		files   tree
		after   time.Duration // of the start
		changed string        // the paths that have a later time than in the step before
	}{
		{"first", tree{"a": "1", "d/b": "1", "d/c": "1"}, 0, "a d d/b d/c"},
		{"the same", tree{"a": "1", "d/b": "1", "d/c": "1"}, time.Hour, ""},
		{"an edit", tree{"a": "2", "d/b": "1", "d/c": "1"}, 2 * time.Hour, "a"},
		{"another in the same second", tree{"a": "3", "d/b": "1", "d/c": "1"}, 2*time.Hour + 1, "a"},
		{"back, with a clock that went back", tree{"a": "1", "d/b": "1", "d/c": "1"}, -time.Hour, "a"},
		{"a mode", tree{"a": "#!1", "d/b": "1", "d/c": "1"}, 3 * time.Hour, "a"},
		{"a link", tree{"a": "-> d/b", "d/b": "1", "d/c": "1"}, 4 * time.Hour, "a"},
		{"a file again", tree{"a": "#!1", "d/b": "1", "d/c": "1"}, 5 * time.Hour, "a"},
		{"a file moves", tree{"a": "#!1", "d/b": "1", "e/c": "1"}, 6 * time.Hour, "d e e/c"},
		{"and moves back", tree{"a": "#!1", "d/b": "1", "d/c": "1"}, 7 * time.Hour, "d d/c"},
		{"a folder gets another name", tree{"a": "#!1", "f/b": "1", "f/c": "1"}, 8 * time.Hour, "f f/b f/c"},
		{"a file becomes a folder", tree{"a/x": "1", "f/b": "1", "f/c": "1"}, 9 * time.Hour, "a a/x"},
	}
	last := map[string]time.Time{}
	var m mesh.FileTimes
	for _, s := range steps {
		now := start.Add(s.after)
		next, changed := builder.NextTimes(m, s.files, now)
		var later []string
		for _, e := range s.files.Entries() {
			at := builder.TimeOf(next, e.Path)
			switch was := last[e.Path]; {
			case at.Before(was):
				t.Errorf("%s: %s goes from %s back to %s", s.name, e.Path, was, at)
			case at.Unix() > was.Unix():
				later = append(later, e.Path)
			case !at.Equal(was):
				t.Errorf("%s: %s is %s later", s.name, e.Path, at.Sub(was))
			}
			last[e.Path] = at
		}
		if got := strings.Join(later, " "); got != s.changed || changed != (got != "") {
			t.Errorf("%s: %q are later, want %q (%v)", s.name, got, s.changed, changed)
		}
		m = next
	}
}

func TestStandIns(t *testing.T) {
	t.Parallel()
	files := tree{"Cargo.toml": "x", "src/main.rs": "x", "src/lib.rs": "x", "crates/a/src/lib.rs": "x", "web/index.html": "x", "app.py": "x"}
	for _, c := range []struct{ name, dockerfile, want string }{
		{"a redirect", "FROM x\nCOPY Cargo.toml .\nRUN mkdir src && echo 'fn main() {}' > src/main.rs && cargo build\nCOPY . .", "src/main.rs"},
		{"below another folder", "FROM x\nRUN echo > /app/src/main.rs\nCOPY src /app/src", "src/main.rs"},
		{"touch", "FROM x\nRUN mkdir src; touch src/{main,lib}.rs\nCOPY . .", "crates/a/src/lib.rs src/lib.rs src/main.rs"},
		{"cargo init", "FROM x\nRUN USER=root cargo init --bin\nCOPY src src", "Cargo.toml crates/a/src/lib.rs src/lib.rs src/main.rs"},
		{"a loop", "FROM x\nRUN for f in src/main.rs app.py; do echo > $f; done\nCOPY . .", "app.py src/main.rs"},
		{"a variable in the way", "FROM x\nRUN for c in a b; do echo > crates/$c/src/lib.rs; done\nCOPY . .", "crates/a/src/lib.rs src/lib.rs"},
		{"a heredoc", "FROM x\nRUN <<EOF\ntee src/main.rs < /dev/null\nEOF\nCOPY . .", "src/main.rs"},
		{"a file of a heredoc", "FROM x\nCOPY <<EOF src/main.rs\nfn main() {}\nEOF\nRUN cargo build\nCOPY . .", "src/main.rs"},
		{"exec form", "FROM x\nRUN [\"sh\", \"-c\", \"echo > app.py\"]\nCOPY . .", "app.py"},
		{"copied under its name", "FROM x\nCOPY dummy.rs src/main.rs\nRUN cargo build\nCOPY src src", "src/main.rs"},
		{"edited", "FROM x\nCOPY Cargo.toml .\nRUN sed -i 's/a/b/' Cargo.toml\nCOPY . .", "Cargo.toml"},
		{"mounted afterwards", "FROM x\nRUN echo > src/main.rs\nRUN --mount=target=/src cargo build", "src/main.rs"},
		{"nothing is copied afterwards", "FROM x\nCOPY . .\nRUN echo > app.py", ""},
		{"from another stage", "FROM x AS y\nRUN echo > app.py\nFROM x\nCOPY --from=y app.py .", ""},
		{"only read", "FROM x\nCOPY Cargo.toml .\nRUN cargo fetch --manifest-path Cargo.toml < app.py\nCOPY . .", ""},
	} {
		if got := strings.Join(builder.StandIns(c.dockerfile, files), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// makes does what make and cargo do: it makes the object if the source is newer.
const makes = `if [ ! -e /obj/app ] || [ /src/a -nt /obj/app ]; then cat /src/a > /obj/app; fi; echo "built $(cat /obj/app)"`

// The live program is the pushed one, even if a cache mount has the product of
// something else, and even if BuildKit has the layer with the old time.
func TestBuild_ACacheMountNeverServesAnOlderSource(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, dockerfile := range []string{
		from("COPY a /src/a", "COPY b /src/b", "RUN --mount=type=cache,target=/obj "+makes),
		from("RUN --mount=target=/src --mount=type=cache,target=/obj " + makes),
		"FROM scratch AS tree\nCOPY . /\n" + from("COPY --from=tree /a /src/a", "COPY b /src/b", "RUN --mount=type=cache,target=/obj "+makes),
	} {
		for i, a := range []string{"one", "two", "one", "fail", "one", "two"} {
			files := tree{"Dockerfile": dockerfile, "a": a, "b": fmt.Sprint(i)}
			if a == "fail" {
				files["Dockerfile"] += "RUN exit 1\n"
				if _, _, err := b.build(b.req(files)); err == nil {
					t.Error("built")
				}
				continue
			}
			if _, out := b.must(b.req(files)); !strings.Contains(out, "built "+a) {
				t.Errorf("step %d: %q was pushed, and not built", i, a)
			}
		}
	}
}

// The same for a tree that the file sync cannot carry.
func TestBuild_ACacheMountNeverServesAnOlderSourceOfATar(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i, a := range []string{"one", "two", "one"} {
		files := tree{"Dockerfile": from("COPY a /src/a", "COPY b /src/b", "RUN --mount=type=cache,target=/obj "+makes), "a": a, "b": fmt.Sprint(i), "caf\xe9": "x"}
		if _, out := b.must(b.req(files)); !strings.Contains(out, "built "+a) {
			t.Errorf("step %d: %q was pushed, and not built", i, a)
		}
	}
}

// A placeholder is out of date as soon as the real file is there, including in the
// first build, and in each build that makes the placeholder again.
func TestBuild_AStandInIsReplaced(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	dockerfile := from("COPY deps /deps", "RUN --mount=type=cache,target=/obj mkdir /src && echo dummy > /src/a && "+makes,
		"COPY a /src/a", "RUN --mount=type=cache,target=/obj "+makes)
	for _, deps := range []string{"1", "2"} {
		if _, out := b.must(b.req(tree{"Dockerfile": dockerfile, "a": "real", "deps": deps})); !strings.Contains(out, "built real") {
			t.Errorf("deps %s: built from the stand-in", deps)
		}
	}
}

// A memory that is lost, or older than what was built, takes no file back in time.
func TestBuild_ALostMemory(t *testing.T) {
	t.Parallel()
	dockerfile := from("COPY a /src/a", "COPY b /src/b", "RUN --mount=type=cache,target=/obj "+makes)
	for name, lose := range map[string]func(b *bench, first mesh.FileTimes) mesh.FileTimes{
		"lost":        func(*bench, mesh.FileTimes) mesh.FileTimes { return mesh.FileTimes{} },
		"out of date": func(_ *bench, first mesh.FileTimes) mesh.FileTimes { return first },
	} {
		b := newBench(t)
		b.must(b.req(tree{"Dockerfile": dockerfile, "a": "one", "b": "0"}))
		first, _ := b.times.FileTimes(t.Context())
		first.Latest = first.Latest.Add(-time.Hour) // the copy is an hour old
		b.must(b.req(tree{"Dockerfile": dockerfile, "a": "two", "b": "0"}))
		_ = b.times.KeepFileTimes(t.Context(), lose(b, first))
		req := b.req(tree{"Dockerfile": dockerfile, "a": "one", "b": "1"})
		req.Deployment = 9
		if _, out := b.must(req); !strings.Contains(out, "built one") {
			t.Errorf("%s: built from the old source", name)
		}
	}
}

// A stack's memory is its own: another stack with the same tree does not share its
// layers and their times.
func TestBuild_TwoStacksOfOneTree(t *testing.T) {
	t.Parallel()
	b, other := newBench(t), newBench(t)
	dockerfile := from("COPY a /src/a", "COPY b /src/b", "RUN --mount=type=cache,target=/obj "+makes)
	other.must(other.req(tree{"Dockerfile": dockerfile, "a": "one", "b": "0"}))
	other.must(other.req(tree{"Dockerfile": dockerfile, "a": "two", "b": "0"}))
	for i, a := range []string{"one", "three", "two"} {
		if _, out := b.must(b.req(tree{"Dockerfile": dockerfile, "a": a, "b": fmt.Sprint(i)})); !strings.Contains(out, "built "+a) {
			t.Errorf("%q was pushed, and not built", a)
		}
	}
}

// counted counts what is read of a tree.
type counted struct {
	tree
	mu   sync.Mutex
	read []string
}

func (c *counted) Open(e mesh.TreeEntry) (io.ReadCloser, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Path != "Dockerfile" && e.Path != ".dockerignore" {
		c.read = append(c.read, e.Path)
	}
	return c.tree.Open(e)
}

func TestBuild_OnlyChangedFilesTravel(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	files := tree{"Dockerfile": from("COPY . /src")}
	for i := range 50 {
		files[fmt.Sprintf("d%d/f%d", i%7, i)] = fmt.Sprint(b.stack, i)
	}
	travels := func() []string {
		t.Helper()
		req := b.req(nil)
		c := &counted{tree: files}
		req.Tree = c
		b.must(req)
		slices.Sort(c.read)
		return c.read
	}
	if got := travels(); len(got) != 50 {
		t.Errorf("%d of 50 files travel in the first build", len(got))
	}
	// BuildKit releases what it has of the last build a moment after that has ended. A
	// build that comes before gets everything anew, so it has another try.
	only := func(what string, change func(try int), want ...string) {
		t.Helper()
		var got []string
		for try := range 5 {
			change(try)
			if got = travels(); slices.Equal(got, want) {
				return
			}
		}
		t.Errorf("%s: %q travel, want %q", what, got, want)
	}
	only("a file has changed", func(try int) { files["d3/f3"] = fmt.Sprint("edited ", try) }, "d3/f3")
	only("a file has changed back, and another one is new", func(try int) {
		files["d3/f3"] = fmt.Sprint(b.stack, 3) + strings.Repeat("+", try)
		files["new"] = fmt.Sprint(try)
	}, "d3/f3", "new")
}
