package builder

import (
	"strings"
	"testing"
)

func TestBases_WithArgs(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"FROM a\n":             "a",
		"ARG V=1\nFROM a:$V\n": "a:1",
		"ARG V=1\nARG W=\"x-${V}\"\nFROM a:${W}\n":                         "a:x-1",
		"ARG V=1\nARG GIVEN=old\nFROM a:$GIVEN AS b\nFROM b\n":             "a:new",
		"ARG V\nFROM a:${V:-2}\n":                                          "a:2",
		"ARG V\nFROM a:$V\n":                                               "?",
		"FROM a:$TARGETARCH\n":                                             "?",
		"FROM a\nARG V=1\nFROM b:$V\n":                                     "?",
		"ARG V=1\nFROM a AS b\nCOPY --from=c /x /\nCOPY --from=b /x /\n":   "a c",
		"ARG V=1\nFROM a\nRUN --mount=type=bind,from=d:2,target=/x true\n": "a d:2",
	} {
		d, err := parseDockerfile("Dockerfile", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		refs, known := d.bases(map[string]string{"GIVEN": "new"})
		got := strings.Join(refs, " ")
		if !known {
			got = "?"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
