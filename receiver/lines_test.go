package receiver

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
)

// sent returns what a pusher gets.
func sent(parts ...string) string {
	var got bytes.Buffer
	p := newLines(func(b []byte) error { got.Write(b); return nil })
	for _, s := range parts {
		_, _ = io.WriteString(p, s)
	}
	p.Close()
	return got.String()
}

func TestLines_WholeCleanLines(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   []string
		want string
	}{
		"lines":                {[]string{"a\nb\n"}, "a\nb\n"},
		"parts of a line":      {[]string{"a", "b", "c\n", "d\n"}, "abc\nd\n"},
		"the end is flushed":   {[]string{"a\nb"}, "a\nb\n"},
		"nothing":              {nil, ""},
		"empty lines":          {[]string{"\n\n"}, "\n\n"},
		"control characters":   {[]string{"a\x00b\x07c\x08d\x7fe\rf\n"}, "abcdef\n"},
		"colours and tabs":     {[]string{"\x1b[31mred\x1b[0m\tx\n"}, "\x1b[31mred\x1b[0m\tx\n"},
		"carriage returns":     {[]string{"10%\r20%\r\n"}, "10%20%\n"},
		"text":                 {[]string{"grüße 世界\n"}, "grüße 世界\n"},
		"a line that is long":  {[]string{strings.Repeat("x", 9000) + "\n"}, strings.Repeat("x", 4000) + "\n" + strings.Repeat("x", 4000) + "\n" + strings.Repeat("x", 1000) + "\n"},
		"a line of 3999 bytes": {[]string{strings.Repeat("x", 3999) + "\n"}, strings.Repeat("x", 3999) + "\n"},
	} {
		if got := sent(tc.in...); got != tc.want {
			t.Errorf("%s: got %.80q…, want %.80q…", name, got, tc.want)
		}
	}
}

func TestLines_EndsWithItsReader(t *testing.T) {
	t.Parallel()
	calls := 0
	p := newLines(func([]byte) error { calls++; return errors.New("gone") })
	for range 3 {
		if n, err := io.WriteString(p, "line\n"); n != 5 || err != nil {
			t.Errorf("a write of somebody else's output gives %d, %v", n, err)
		}
	}
	p.Close()
	p.Close()
	if calls != 1 {
		t.Errorf("%d packets went to a reader that was gone", calls)
	}
}

func TestLines_ManyWriters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got bytes.Buffer
		p := newLines(func(b []byte) error { got.Write(b); return nil })
		done := make(chan struct{})
		for range 4 {
			go func() {
				defer func() { done <- struct{}{} }()
				for range 100 {
					_, _ = io.WriteString(p, "0123456789\n")
				}
			}()
		}
		for range 4 {
			<-done
		}
		p.Close()
		_, _ = io.WriteString(p, "after the end\n")
		if got.String() != strings.Repeat("0123456789\n", 400) {
			t.Errorf("got %d bytes", got.Len())
		}
	})
}
