package logs

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// A segment is a file of blocks, to which the process that made it appends:
//
//	magic    4 bytes
//	flags    4 bytes: 1, the last block of its tail
//	tail     8 bytes: the tail that the lines were in
//	first    8 bytes: the earliest time in it, in nanoseconds
//	last     8 bytes: the latest
//	raw      4 bytes: size of the batch
//	packed   4 bytes: size of the compressed batch
//	sum      4 bytes: CRC-32C of that
//	own sum  4 bytes: CRC-32C of the header so far
//	batch    compressed with zstd (RFC 8878)
//
// Numbers are little-endian. The lines of a block are in the order of their times. The
// headers are the index: a query reads them, and then only the blocks of its time.
type block struct {
	file   string // path of the segment
	tail   uint64
	ends   bool // the last block of its tail
	first  int64
	last   int64
	raw    uint32
	packed uint32
	sum    uint32
	at     int64 // of the compressed batch, in the file
}

const (
	segmentSuffix = ".seg"
	blockMagic    = 0x6d736231 // "msb1"
	blockHead     = 48
	lastOfTail    = 1
	maxSegment    = 16 << 20 // bytes, after which another one is begun
)

var errBlock = errors.New("a block is damaged")

func (b *block) encodeHead() []byte {
	h := make([]byte, blockHead)
	e := binary.LittleEndian
	e.PutUint32(h, blockMagic)
	if b.ends {
		e.PutUint32(h[4:], lastOfTail)
	}
	e.PutUint64(h[8:], b.tail)
	e.PutUint64(h[16:], uint64(b.first)) //nolint:gosec // read back as such
	e.PutUint64(h[24:], uint64(b.last))  //nolint:gosec // read back as such
	e.PutUint32(h[32:], b.raw)
	e.PutUint32(h[36:], b.packed)
	e.PutUint32(h[40:], b.sum)
	e.PutUint32(h[44:], crc32.Checksum(h[:44], castagnoli))
	return h
}

func decodeHead(h []byte) (b block, err error) {
	e := binary.LittleEndian
	if e.Uint32(h) != blockMagic || e.Uint32(h[44:]) != crc32.Checksum(h[:44], castagnoli) {
		return b, errBlock
	}
	return block{
		ends: e.Uint32(h[4:])&lastOfTail != 0, tail: e.Uint64(h[8:]), first: int64(e.Uint64(h[16:])), last: int64(e.Uint64(h[24:])), //nolint:gosec // written as such
		raw: e.Uint32(h[32:]), packed: e.Uint32(h[36:]), sum: e.Uint32(h[40:]),
	}, nil
}

// scan reads the headers of a segment from an offset on. It returns the offset after the
// last whole block; damaged reports that more follows, which cannot be read.
func scan(path string, from int64) (blocks []block, end int64, damaged bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, from, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, from, false, err
	}
	var h [blockHead]byte
	for from+blockHead <= info.Size() {
		if _, err := f.ReadAt(h[:], from); err != nil {
			return blocks, from, false, err
		}
		b, err := decodeHead(h[:])
		if err != nil {
			return blocks, from, true, nil //nolint:nilerr // the caller says what it means
		}
		b.file, b.at = path, from+blockHead
		if b.at+int64(b.packed) > info.Size() {
			break // it is being written, or was torn
		}
		from = b.at + int64(b.packed)
		blocks = append(blocks, b)
	}
	return blocks, from, false, nil
}

// index has the headers of a folder's segments.
type index struct {
	dir  string
	mu   sync.Mutex
	read map[string]*indexed
}

type indexed struct {
	end    int64
	blocks []block
}

// blocks returns the blocks of all segments, and the names of those that are damaged.
func (x *index) blocks() (all []block, damaged []string, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	segments, err := listParts(x.dir, segmentSuffix)
	if err != nil {
		return nil, nil, err
	}
	now := make(map[string]*indexed, len(segments))
	for _, g := range segments {
		have := x.read[g.path]
		if have == nil || g.size < have.end {
			have = &indexed{}
		}
		if g.size > have.end {
			more, end, bad, err := scan(g.path, have.end)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, nil, err
			}
			have.blocks, have.end = append(have.blocks, more...), end
			if bad {
				damaged = append(damaged, filepath.Base(g.path))
			}
		}
		now[g.path] = have
		all = append(all, have.blocks...)
	}
	x.read = now
	return all, damaged, nil
}

// Coders may be used from several goroutines at once. They cannot fail with these
// options.
var (
	encoder, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	decoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxFrame))
)

// load reads and decompresses a block. buf may be used for it.
func (b *block) load(f io.ReaderAt, buf []byte) ([]byte, error) {
	packed := make([]byte, b.packed)
	if _, err := f.ReadAt(packed, b.at); err != nil {
		return nil, err
	}
	if crc32.Checksum(packed, castagnoli) != b.sum {
		return nil, errBlock
	}
	out, err := decoder.DecodeAll(packed, buf[:0])
	if err != nil || len(out) != int(b.raw) {
		return nil, errors.Join(errBlock, err)
	}
	return out, nil
}

// packer compresses tails into the segments of this process.
type packer struct {
	mu   sync.Mutex // one tail at a time
	path string     // of the segment; empty: none yet
	made time.Time
	size int64
}

// pack makes blocks of a tail and removes it.
func (p *packer) pack(s *shelf, t part, share int64) error {
	number, err := strconv.ParseUint(t.id, 16, 64)
	if err != nil {
		return err
	}
	if err := p.undo(s, number); err != nil {
		return err
	}
	lines := make([]line, 0, t.size/64)
	err = t.frames(func(b []byte) error {
		return decode(bytes.Clone(b), func(l line) bool { lines = append(lines, l); return true })
	})
	switch {
	case errors.Is(err, errTorn), errors.Is(err, errBatch):
		s.l.Logger.Warn("a part of a log is damaged, and left out", "file", t.path, "err", err)
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	if len(lines) > 0 {
		slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.at, b.at) })
		if err := p.write(s, number, lines, share); err != nil {
			return err
		}
	}
	return s.retire(t)
}

// undo removes the blocks of a tail that a process has begun to compress when it was
// killed: they are incomplete, as long as the tail exists.
func (p *packer) undo(s *shelf, tail uint64) error {
	all, _, err := s.index.blocks()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(b block) bool { return b.tail == tail })
	if i < 0 {
		return nil
	}
	if j := slices.IndexFunc(all, func(b block) bool { return b.tail == tail && b.ends }); j >= 0 {
		return nil // only the removal of the tail is missing; write finds that, too
	}
	p.path = "" // it may be the one
	return os.Truncate(all[i].file, all[i].at-blockHead)
}

// write appends blocks of lines to the segment, and waits until they are on the disk: the
// tail is removed after that.
func (p *packer) write(s *shelf, tail uint64, lines []line, share int64) (err error) {
	all, _, err := s.index.blocks()
	if err != nil || slices.ContainsFunc(all, func(b block) bool { return b.tail == tail && b.ends }) {
		return err // compressed before a crash
	}
	if p.path == "" || p.size >= min(maxSegment, max(share/8, 64<<10)) || s.l.Now().Sub(p.made) > oldTail {
		p.path, p.made, p.size = partPath(s.dir, newID(), s.l.owner.id, segmentSuffix), s.l.Now(), 0
	}
	f, err := os.OpenFile(p.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	before := p.size
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Truncate(before))
			p.size = before
		}
		err = errors.Join(err, f.Close())
	}()
	var packed, raw []byte
	var room []byte
	for len(lines) > 0 {
		b := batch{lines: slices.Grow(room[:0], s.l.Block+64<<10)}
		n := 0
		for n < len(lines) && (n == 0 || b.size() < s.l.Block) {
			l := lines[n]
			b.add(*l.origin, l.at, func(dst []byte) []byte { return append(dst, l.text...) })
			n++
		}
		room, raw = b.lines, b.encode(slices.Grow(raw[:0], b.size()+4<<10))
		packed = encoder.EncodeAll(raw, packed[:0])
		h := block{
			tail: tail, ends: n == len(lines), first: lines[0].at, last: lines[n-1].at,
			raw: uint32(len(raw)), packed: uint32(len(packed)), sum: crc32.Checksum(packed, castagnoli), //nolint:gosec // less than maxFrame
		}
		lines = lines[n:]
		wrote, err := f.Write(append(h.encodeHead(), packed...))
		p.size += int64(wrote)
		if err != nil {
			return err
		}
	}
	return f.Sync()
}
