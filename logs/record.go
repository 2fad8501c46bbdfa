package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"mesh"
)

// A batch is the form in which lines are written and compressed:
//
//	cursors   count, then each: its bytes
//	origins   count, then each: source, name, release, stream
//	lines     each: origin's number, nanoseconds since the line before, text
//
// Numbers are varints, and texts have their length before them. The first line's time
// counts from 1970. A batch says everything that its lines need, so that any of them can
// be read or lost alone.

// origin is where a line comes from.
type origin struct {
	source  string
	name    string
	release mesh.ReleaseNumber
	stream  byte // 1: standard output, 2: standard error, 0: neither
}

// line is a line in a batch. text is a part of the batch.
type line struct {
	at     int64 // Unix time in nanoseconds
	origin *origin
	text   []byte
}

// batch collects lines.
type batch struct {
	origins map[origin]uint64
	order   []origin
	lines   []byte
	last    int64 // the time of the line added last
	count   int
	cursors map[string]cursor // by container
}

// size is the bytes that a batch takes, nearly.
func (b *batch) size() int { return len(b.lines) }

func (b *batch) empty() bool { return b.count == 0 && len(b.cursors) == 0 }

// add appends a line, whose text the function appends.
func (b *batch) add(o origin, at int64, text func([]byte) []byte) {
	if b.origins == nil {
		b.origins = map[origin]uint64{}
	}
	n, ok := b.origins[o]
	if !ok {
		n = uint64(len(b.order))
		b.origins[o] = n
		b.order = append(b.order, o)
	}
	b.lines = binary.AppendUvarint(b.lines, n)
	b.lines = binary.AppendVarint(b.lines, at-b.last)
	// The length is written before the text, which is only known afterwards: four bytes
	// are kept for it.
	start := len(b.lines)
	b.lines = append(b.lines, 0, 0, 0, 0)
	b.lines = text(b.lines)
	binary.LittleEndian.PutUint32(b.lines[start:], uint32(len(b.lines)-start-4)) //nolint:gosec // a line has at most maxLine bytes
	b.last = at
	b.count++
}

// addDropped says that lines of a container were not kept.
func (b *batch) addDropped(src mesh.OutputSource, at int64, n, rate int) {
	b.add(origin{source: SourceMesh, name: "logs", release: src.Release}, at, func(dst []byte) []byte {
		return fmt.Appendf(dst, "%d lines of %s were not kept: it prints more than %d a second (log-rate)", n, src.Name, rate)
	})
}

// addGap says that lines of a container may be missing before a time.
func (b *batch) addGap(src mesh.OutputSource, at int64) {
	b.add(origin{source: SourceMesh, name: "logs", release: src.Release}, at, func(dst []byte) []byte {
		return fmt.Appendf(dst, "lines of %s may be missing here: the engine threw its oldest ones away before mesh read them", src.Name)
	})
}

// encode appends the batch to dst.
func (b *batch) encode(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b.cursors)))
	ids := make([]string, 0, len(b.cursors))
	for id := range b.cursors {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		dst = b.cursors[id].encode(dst, id)
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.order)))
	for _, o := range b.order {
		dst = appendText(dst, o.source)
		dst = appendText(dst, o.name)
		dst = binary.AppendUvarint(dst, uint64(o.release)) //nolint:gosec // a number of a release
		dst = append(dst, o.stream)
	}
	return append(dst, b.lines...)
}

func appendText[T string | []byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

var errBatch = errors.New("the lines are damaged")

// reader reads the parts of a batch.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) text() string { return string(r.bytes(r.uvarint())) }

func (r *reader) byte() byte {
	b := r.bytes(1)
	if b == nil {
		return 0
	}
	return b[0]
}

// decodeCursors returns the cursors of a batch, and what follows them.
func decodeCursors(b []byte) (map[string]cursor, []byte, error) {
	r := &reader{b: b}
	n := r.uvarint()
	if n > uint64(len(b)) {
		return nil, nil, errBatch
	}
	out := make(map[string]cursor, n)
	for range n {
		id, c := decodeCursor(r)
		out[id] = c
	}
	if r.bad {
		return nil, nil, errBatch
	}
	return out, r.b, nil
}

// decode calls fn with each line of a batch, until fn returns false.
func decode(b []byte, fn func(line) bool) error {
	_, rest, err := decodeCursors(b)
	if err != nil {
		return err
	}
	r := &reader{b: rest}
	n := r.uvarint()
	if n > uint64(len(b)) {
		return errBatch
	}
	origins := make([]origin, n)
	for i := range origins {
		origins[i] = origin{source: r.text(), name: r.text(), release: mesh.ReleaseNumber(r.uvarint()), stream: r.byte()} //nolint:gosec // written by encode
	}
	at := int64(0)
	for len(r.b) > 0 && !r.bad {
		o := r.uvarint()
		at += r.varint()
		size := r.bytes(4)
		if size == nil || o >= uint64(len(origins)) {
			return errBatch
		}
		text := r.bytes(uint64(binary.LittleEndian.Uint32(size)))
		if r.bad {
			return errBatch
		}
		if !fn(line{at: at, origin: &origins[o], text: text}) {
			return nil
		}
	}
	if r.bad {
		return errBatch
	}
	return nil
}
