package reasons_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"mesh/reasons"
)

// The outputs of real tools, cut to what surrounds the reason.
func TestFind(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		out         string
		first, hint string
		lines       int
	}{
		"npm ci out of step": {
			"npm error code EUSAGE\nnpm error\nnpm error `npm ci` can only install packages when your package.json and package-lock.json or npm-shrinkwrap.json are in sync. Please update your lock file with `npm install` before continuing.\nnpm error\nnpm error Missing: is-number@7.0.0 from lock file\nnpm error\nnpm error Clean install a project\nnpm error Usage:\nnpm error npm ci",
			"npm error `npm ci` can only install", "run npm install, and commit package-lock.json", 2,
		},
		"pnpm out of step": {
			" ERR_PNPM_OUTDATED_LOCKFILE  Cannot install with \"frozen-lockfile\" because pnpm-lock.yaml is not up to date with <ROOT>/package.json\n\nNote that in CI environments this setting is true by default.\n\n  Failure reason:\n  specifiers in the lockfile don't match specifiers in package.json:\n* 1 dependencies were added: is-odd@3",
			" ERR_PNPM_OUTDATED_LOCKFILE", "run pnpm install", 2,
		},
		"yarn 1 and Node": {
			"[1/4] Resolving packages...\nerror app@1.0.0: The engine \"node\" is incompatible with this module. Expected version \"24.16.0\". Got \"24.21.0\"\nerror Found incompatible module.\ninfo Visit https://yarnpkg.com/en/docs/cli/install",
			"error app@1.0.0: The engine", "ask for a node that fits in engines", 1,
		},
		"a Mac's bundle": {
			"Your bundle only supports platforms [\"arm64-darwin-21\"] but your local platform is\nx86_64-linux. Add the current platform to the lockfile with\n`bundle lock --add-platform x86_64-linux` and try again.",
			"Your bundle only supports", "bundle lock --add-platform x86_64-linux", 1,
		},
		"a Rails without a secret": {
			"/usr/local/bundle/gems/railties/application.rb:1:in `secret_key_base': Missing `secret_key_base` for 'production' environment, set this string with `bin/rails credentials:edit` (ArgumentError)\n\tfrom x.rb",
			"/usr/local/bundle/gems/railties", "openssl rand -hex 64: ssh mesh config:set SECRET_KEY_BASE=…", 1,
		},
		"webpack 4":   {"Error: error:0308010C:digital envelope routines::unsupported\n    at new Hash\n  code: 'ERR_OSSL_EVP_UNSUPPORTED'", "Error: error:0308010C", "write 16 into .node-version", 1},
		"tsc":         {"src/a.ts(1,7): error TS2322: Type 'string' is not assignable to type 'number'.\nsrc/a.ts(2,7): error TS2304: Cannot find name 'x'.\nnpm error Lifecycle script `build` failed with error:", "src/a.ts(1,7): error TS2322", "", 2},
		"go":          {"# shop\n./main.go:3:2: undefined: x\n./main.go:4:2: undefined: y", "./main.go:3:2", "", 2},
		"a header":    {"building 'x' extension\nx.c:1:10: fatal error: openssl/ssl.h: No such file or directory\ncompilation terminated.\nerror: command '/usr/bin/gcc' failed with exit code 1", "x.c:1:10: fatal error", "the Debian package that has openssl/ssl.h", 1},
		"go.sum":      {"main.go:4:2: missing go.sum entry for module providing package x", "main.go:4:2", "go mod tidy", 1},
		"a config":    {"KeyError: 'PAYMENT_KEY'", "KeyError", "config:set PAYMENT_KEY=…", 1},
		"a table":     {"PG::UndefinedTable: ERROR:  relation \"users\" does not exist", "PG::", "release command in the Procfile", 1},
		"nothing":     {"listening on 3000\nbye", "", "", 0},
		"Python":      {"ERROR: Could not find a version that satisfies the requirement numpy==1.26.0 (from versions: none)\nERROR: No matching distribution found for numpy==1.26.0", "ERROR: Could not find", "no release of numpy==1.26.0 fits", 1},
		"no compiler": {"error: command 'gcc' failed: No such file or directory: 'gcc'", "error: command", "build-packages=build-essential", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := reasons.Find(strings.Split(c.out, "\n"))
			if len(r.Lines) != c.lines {
				t.Fatalf("lines %q", r.Lines)
			}
			if c.lines > 0 && !strings.HasPrefix(r.Lines[0], c.first) {
				t.Errorf("first line %q", r.Lines[0])
			}
			if !strings.Contains(r.Hint, c.hint) || c.hint == "" && r.Hint != "" {
				t.Errorf("hint %q", r.Hint)
			}
		})
	}
}

// The reason comes last, once, and the lines stay within their number.
func TestReason_Last(t *testing.T) {
	t.Parallel()
	r := reasons.Reason{Lines: []string{"why", "because"}}
	var usage []string
	for i := range 100 {
		usage = append(usage, fmt.Sprint("usage ", i))
	}
	got := r.Last(usage, 10)
	if len(got) != 10 || !slices.Equal(got[7:], []string{"… and further up:", "why", "because"}) || got[6] != "usage 99" {
		t.Errorf("got %q", got)
	}
	near := append(slices.Clone(usage), "why", "because")
	if got := r.Last(near, 10); len(got) != 10 || got[9] != "because" || slices.Contains(got, "… and further up:") {
		t.Errorf("a reason that is near the end: %q", got)
	}
	if got := (reasons.Reason{}).Last(usage, 10); len(got) != 10 || got[9] != "usage 99" {
		t.Errorf("no reason: %q", got)
	}
}

// However long an output and its lines are, a Finder keeps little of it.
func TestFinder_Bounded(t *testing.T) {
	t.Parallel()
	var f reasons.Finder
	for range 10_000 {
		f.Add("a.go:1:1: " + strings.Repeat("x", 5000))
	}
	if n := len(strings.Join(f.Reason().Lines, "")); n > 5000 {
		t.Errorf("it keeps %d bytes", n)
	}
}

func BenchmarkFinder(b *testing.B) {
	var f reasons.Finder
	for b.Loop() {
		f.Add("[12:01:02] GET /assets/index-4f2a.js 200 in 12 ms, from the cache of the build")
	}
}
