package journal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"mesh"
)

// TimeFormat is the format of a line's time; AppendStart writes it.
const TimeFormat = "2006-01-02T15:04:05.000000Z"

// AppendStart appends the beginning of a line: its time and the name of its subject.
func AppendStart(b []byte, at time.Time, name string) []byte {
	b = at.UTC().AppendFormat(b, TimeFormat)
	b = append(b, ' ')
	b = append(b, name...)
	return append(b, ' ')
}

// parse is the inverse of AppendStart and the text.
func parse(line, source string) (mesh.LogLine, bool) {
	at, rest, ok := strings.Cut(line, " ")
	name, text, ok2 := strings.Cut(rest, " ")
	t, err := time.Parse(TimeFormat, at)
	return mesh.LogLine{At: t, Source: source, Name: name, Text: text}, ok && ok2 && err == nil
}

// wanted reports whether a query includes a line.
func wanted(q mesh.LogQuery, l mesh.LogLine) bool {
	if l.At.Before(q.Since) {
		return false
	}
	svc, _, _ := strings.Cut(l.Name, ".")
	switch {
	case q.Instance != (mesh.InstanceName{}):
		return l.Name == q.Instance.String()
	case q.Service != "":
		return svc == string(q.Service)
	}
	return true
}

// followEvery is how often a followed log is checked. During an upgrade, another
// process may write the lines: only the file shows them.
const followEvery = 100 * time.Millisecond

// Logs calls fn with the lines of a stack that q asks for, oldest first, and returns
// fn's error. With q.Follow it continues until ctx ends, and then returns nil.
func (j *Journal) Logs(ctx context.Context, q mesh.LogQuery, fn func(mesh.LogLine) error) error {
	var last []mesh.LogLine
	keep := func(l mesh.LogLine) error {
		if !wanted(q, l) {
			return nil
		}
		if q.Lines >= 0 && len(last) >= q.Lines {
			if q.Lines == 0 {
				return nil
			}
			last = last[1:]
		}
		last = append(last, l)
		return nil
	}
	if err := each(j.older(q.Stack), j.Source, keep); err != nil {
		return err
	}
	t := &tail{path: j.path(q.Stack), source: j.Source}
	defer t.close()
	if err := t.read(keep); err != nil {
		return err
	}
	for _, l := range last {
		if err := fn(l); err != nil {
			return err
		}
	}
	if !q.Follow {
		return nil
	}
	if q.Caught != nil {
		q.Caught()
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := t.read(func(l mesh.LogLine) error {
			if wanted(q, l) {
				return fn(l)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

func each(path, source string, fn func(mesh.LogLine) error) error {
	t := &tail{path: path, source: source}
	defer t.close()
	return t.read(fn)
}

// tail reads a file that grows and is sometimes replaced by a new one.
type tail struct {
	path   string
	source string
	f      *os.File
	part   []byte // of a line whose end has not been written yet
}

func (t *tail) close() {
	if t.f != nil {
		_ = t.f.Close()
		t.f = nil
	}
}

// read calls fn with the lines that are new since the last call.
func (t *tail) read(fn func(mesh.LogLine) error) error {
	for {
		if t.f == nil {
			f, err := os.Open(t.path)
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			t.f = f
		}
		if err := t.rest(fn); err != nil {
			return err
		}
		now, err := os.Stat(t.path)
		mine, merr := t.f.Stat()
		if merr != nil {
			return merr
		}
		if err == nil && os.SameFile(now, mine) {
			return nil
		}
		// Lines added before the file was replaced must still be read.
		if err := t.rest(fn); err != nil {
			return err
		}
		t.close()
		if err != nil { // there is no new file yet
			return nil //nolint:nilerr // the next call finds it
		}
	}
}

func (t *tail) rest(fn func(mesh.LogLine) error) error {
	r := bufio.NewReaderSize(t.f, 64<<10)
	for {
		b, err := r.ReadBytes('\n')
		t.part = append(t.part, b...)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		l, ok := parse(string(bytes.TrimSuffix(t.part, []byte{'\n'})), t.source)
		t.part = t.part[:0]
		if ok {
			if err := fn(l); err != nil {
				return err
			}
		}
	}
}
