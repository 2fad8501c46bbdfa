package repos

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mesh"
	"mesh/repos/repostest"
)

// anywhere allows every fetch, from a fixed address.
type anywhere struct{ addr netip.Addr }

func (anywhere) Check(context.Context, string) error { return nil }

func (a anywhere) Pin(context.Context, string) (netip.Addr, error) { return a.addr, nil }

func (anywhere) Proxy(context.Context) (*url.URL, func(), error) {
	return &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, func() {}, nil
}

// refusing allows one host.
type refusing struct{ anywhere }

func (refusing) Check(_ context.Context, host string) error {
	if host != "ok.example" {
		return mesh.Errorf(mesh.Denied, "%s is refused", host)
	}
	return nil
}

func TestMayFetch_AsksForTheHost(t *testing.T) {
	t.Parallel()
	r := stackRepo(t)
	r.Egress = refusing{}
	for at, want := range map[string]string{
		"https://ok.example/x/y":        "",
		"ssh://git@ok.example:2222/x":   "",
		"git@ok.example:x/y":            "",
		"https://no.example/ok.example": "no.example is refused",
		"git@no.example:ok.example/y":   "no.example is refused",
		"http://[::1]:8080/x":           "::1 is refused",
		"ssh://git@a'b/x":               `"a'b" is not a host`,
	} {
		err := r.MayFetch(t.Context(), at)
		if got := fmt.Sprint(err); want == "" && err != nil || want != "" && !strings.HasPrefix(got, want) {
			t.Errorf("%s: %v", at, err)
		}
	}
}

// Anyone with a deploy key can set the URL of a submodule, and a shell runs the command
// for ssh. The zone of an IPv6 address allowed commands in there.
func TestFetchModules_URLIsNoCommand(t *testing.T) {
	t.Parallel()
	for _, at := range []string{
		"ssh://[2606:4700::1111%25';touch%20pwned;']/x",
		"ssh://git@[2606:4700::1111%25$(id>pwned)]/x",
		"ssh://git@[2606:4700::1111%25;id>pwned;]:22/x",
		"ssh://git@a'$(id>pwned)'b/x",
		"git://[2606:4700::1111%25$(id>pwned)]/x",
		"https://[2606:4700::1111%25$(id>pwned)]/x",
		"git@a;id>pwned:x",
	} {
		r := stackRepo(t)
		// The server's own messages about a host are no safer.
		r.Egress = anywhere{netip.MustParseAddr("2606:4700::1111").WithZone("$(id>pwned)")}
		w := repostest.New(t)
		w.Write(".gitmodules", []byte("[submodule \"m\"]\n\tpath = m\n\turl = \""+at+"\"\n"), 0o644)
		w.Git("update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",m")
		w.Git("add", ".gitmodules")
		w.Git("commit", "-q", "-m", "module")
		push(t, w, r, "blog", "HEAD:main")
		_, err := r.FetchModules(t.Context(), "blog", mesh.Commit(w.Git("rev-parse", "HEAD")), func(string) {})
		if err == nil || !strings.Contains(err.Error(), "the submodule m cannot be fetched") {
			t.Errorf("%s: %v", at, err)
		}
		found, err := filepath.Glob(filepath.Join(r.path("blog"), "pwned*"))
		if err != nil || len(found) > 0 {
			t.Errorf("%s was run by a shell: %v, %v", at, found, err)
		}
	}
}

// In the ssh command that git gets, the host and the data directory are one word each,
// whatever their names.
func TestQuoted_IsOneWord(t *testing.T) {
	t.Parallel()
	w := repostest.New(t)
	for _, word := range []string{"", "a b", "it's", "$(id>pwned)", "`id>pwned`", "';id>pwned;'", `\\`} {
		if got := w.Git("-c", "alias.x=!printf '%s|' "+quoted(word)+" #", "x"); got != word+"|" {
			t.Errorf("%q became %q", word, got)
		}
	}
	if _, err := os.Stat(filepath.Join(w.Dir, "pwned")); err == nil {
		t.Error("the shell ran it")
	}
}
