package logs

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"mesh"
)

// benchLine is a line such as a web app prints, of about 120 bytes.
func benchLine(i int) string {
	return fmt.Sprintf(`{"time":"2026-01-02T15:04:05.%06dZ","level":"info","msg":"request","path":"/items/%d","status":200,"took_ms":%d,"user":"u%d"}`, i%1_000_000, i*7919%100_000, i*31%500, i*17%3000)
}

// BenchmarkKeep is the cost of a line from the engine's reader to compressed blocks on
// the disk, with the default limits: at 50 MB/s, these are the bytes per second of one core.
func BenchmarkKeep(b *testing.B) {
	l := open(b, b.TempDir(), Options{})
	sh := l.stack("blog", false).shelf[appShelf]
	text := []byte(benchLine(1))
	hide := newMask([]string{"planted-secret", "another-secret", "a-third-secret"})
	limit := &limiter{rate: 1e9}
	o := origin{source: SourceApp, name: "web.1", release: 1, stream: 1}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for i := range b.N {
		at := start.UnixNano() + int64(i)*1000
		text = append(text[:0], benchLines[i%len(benchLines)]...)
		limit.allow(at, len(text))
		_ = sh.put(b.Context(), "c1", func(to *batch, c cursor) cursor {
			to.add(o, at, func(dst []byte) []byte { return hide.append(dst, text) })
			return c.next(at, 1, text)
		})
		if sh.batch.size() >= 1<<20 {
			l.flush()
			if err := sh.compress(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

var benchLines = func() (out []string) {
	for i := range 10_000 {
		out = append(out, benchLine(i))
	}
	return out
}()

// BenchmarkSearch searches through 500 MB of lines, beside grep in the same lines as one
// file of text, which is in the page cache.
func BenchmarkSearch(b *testing.B) {
	dir := b.TempDir()
	l := open(b, dir, Options{})
	plain, err := os.Create(filepath.Join(dir, "plain"))
	if err != nil {
		b.Fatal(err)
	}
	w := bufio.NewWriter(plain)
	const size = 500 << 20
	total := 0
	for i := 0; total < size; i++ {
		text := benchLine(i)
		total += len(text)
		l.Add("blog", mesh.LogLine{At: start.Add(time.Duration(i) * time.Millisecond), Source: SourceApp, Name: "web.1", Release: 1, Text: text})
		_, _ = fmt.Fprintln(w, text)
		if i%20_000 == 0 {
			l.flush()
		}
	}
	pack(b, l)
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	kept, _ := diskSize(l, "blog")
	for name, q := range map[string]mesh.LogQuery{
		"text":    {Grep: regexp.MustCompile(`"user":"u4242"`)},
		"regular": {Grep: regexp.MustCompile(`path":"/items/99\d99".*status":5`)},
		"either":  {Grep: regexp.MustCompile(`u4242|u4243`)},
		"case":    {Grep: regexp.MustCompile(`(?i)timeout`)},
		"level":   {Level: mesh.LevelError},
		"field":   {Grep: regexp.MustCompile(`user=u2999$`)},
		"last":    {Lines: 100},
		"hour":    {Since: start.Add(time.Hour), Until: start.Add(time.Hour + time.Second)},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportMetric(float64(size)/float64(kept), "ratio")
			for range b.N {
				texts(b, l, q)
			}
		})
	}
	b.Run("grep", func(b *testing.B) {
		for range b.N {
			_ = exec.CommandContext(b.Context(), "grep", "-c", `"user":"u4242"`, plain.Name()).Run() // it finds none
		}
	})
}
