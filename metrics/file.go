package metrics

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"

	"mesh"
	"mesh/atomicfile"
)

// A file holds the points of a stack in one tier: packed blocks, oldest first, and
// after them the loose points that have not been packed yet, each written when its time
// was over. Every frame has a checksum. A damaged frame is skipped, and the next one is
// found by its first bytes.

// A frame begins with a header, in little-endian numbers.
const (
	frameMagic = 0x316d6873656d0a1e // "\x1e\nmeshm1"
	headerSize = 56
)

// maxFrame is the largest length of a frame that is believed.
const maxFrame = 4 << 20

// frame is one frame of a file.
type frame struct {
	packed      bool
	seq         uint64 // of the file; a packed frame has that of the last loose one in it
	first, last int64  // slots; last is the highest
	points      int64
	at, length  int64 // of the payload, in the file
	sum         uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendFrame appends a header and the payload.
func appendFrame(b []byte, f frame, payload []byte) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint64(b, frameMagic)
	b = binary.LittleEndian.AppendUint64(b, f.seq)
	b = binary.LittleEndian.AppendUint64(b, uint64(f.first)) //nolint:gosec // and back
	b = binary.LittleEndian.AppendUint64(b, uint64(f.last))  //nolint:gosec // and back
	packed := uint32(0)
	if f.packed {
		packed = 1
	}
	b = binary.LittleEndian.AppendUint32(b, packed)
	b = binary.LittleEndian.AppendUint32(b, uint32(f.points))     //nolint:gosec // small
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload))) //nolint:gosec // small
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(payload, castagnoli))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
	return append(b, payload...)
}

// parseHeader returns the frame that begins with b; at is where b begins.
func parseHeader(b []byte, at int64) (frame, bool) {
	if len(b) < headerSize || binary.LittleEndian.Uint64(b) != frameMagic ||
		binary.LittleEndian.Uint32(b[headerSize-4:]) != crc32.Checksum(b[:headerSize-4], castagnoli) {
		return frame{}, false
	}
	f := frame{
		seq: binary.LittleEndian.Uint64(b[8:]), packed: binary.LittleEndian.Uint32(b[32:]) == 1,
		first: int64(binary.LittleEndian.Uint64(b[16:])), last: int64(binary.LittleEndian.Uint64(b[24:])), //nolint:gosec // and back
		points: int64(binary.LittleEndian.Uint32(b[36:])), length: int64(binary.LittleEndian.Uint32(b[40:])),
		sum: binary.LittleEndian.Uint32(b[44:]), at: at + headerSize,
	}
	return f, f.length <= maxFrame
}

// contents is what a file has.
type contents struct {
	frames []frame // without those whose header is damaged
	end    int64   // where the last of them ends
	seq    uint64  // of the last
	lost   int     // gaps between them that are not frames
}

// scan reads the headers of a file. A missing file is empty. The rest of a loose frame
// that was overwritten by a packed one has a lower number, and is left out.
func scan(f io.ReaderAt, size int64) (contents, error) {
	var c contents
	head := make([]byte, headerSize)
	for at := int64(0); at+headerSize <= size; {
		if _, err := f.ReadAt(head, at); err != nil {
			return c, err
		}
		fr, ok := parseHeader(head, at)
		if ok && fr.at+fr.length <= size {
			at = fr.at + fr.length
			if len(c.frames) == 0 || fr.seq > c.seq {
				c.frames, c.seq, c.end = append(c.frames, fr), fr.seq, at
			}
			continue
		}
		next, err := findFrame(f, at+1, size)
		if err != nil || next < 0 {
			return c, err
		}
		c.lost++
		at = next
	}
	return c, nil
}

// findFrame returns where the next sound header begins, or -1.
func findFrame(f io.ReaderAt, from, size int64) (int64, error) {
	b := make([]byte, size-from) // a file is small: see tiers
	if _, err := f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
		return -1, err
	}
	for i := 0; i+headerSize <= len(b); i++ {
		if b[i] != frameMagic&0xff {
			continue
		}
		if _, ok := parseHeader(b[i:], from+int64(i)); ok {
			return from + int64(i), nil
		}
	}
	return -1, nil
}

// maxFile is the largest file that is read: ours are smaller.
const maxFile = 16 << 20

// open opens a file for reading and reads its headers. The caller closes it.
func open(path string) (*os.File, contents, error) {
	f, err := os.Open(path) //nolint:gosec // a path below our folder
	if err != nil {
		return nil, contents{}, err
	}
	st, err := f.Stat()
	var c contents
	if err == nil {
		if !st.Mode().IsRegular() || st.Size() > maxFile {
			err = errBlock
		} else {
			c, err = scan(f, st.Size())
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, contents{}, err
	}
	return f, c, nil
}

// read returns the points of a frame.
func (fr frame) read(f io.ReaderAt) ([]point, error) {
	b := make([]byte, fr.length)
	if _, err := f.ReadAt(b, fr.at); err != nil {
		return nil, err
	}
	if crc32.Checksum(b, castagnoli) != fr.sum {
		return nil, errBlock
	}
	if fr.packed {
		var err error
		if b, err = unpack(b); err != nil {
			return nil, err
		}
	}
	return parseBlock(b)
}

// tail is the writer's view of a file: where it ends, and what is loose there.
type tail struct {
	end     int64
	seq     uint64
	loose   int64 // where the loose frames begin
	points  int64 // loose
	last    int64 // the slot of the last point; 0: none
	packed  int64 // points in packed frames
	pending []frame
	waiting []byte // frames that could not be written yet, without numbers
}

// begin reads the tail of a file, and cuts off what is behind its last sound frame.
func begin(path string) (*tail, int, error) {
	f, c, err := open(path)
	if errors.Is(err, os.ErrNotExist) {
		return &tail{}, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	_ = f.Close()
	t := &tail{end: c.end, seq: c.seq, loose: c.end}
	for _, fr := range c.frames {
		t.last = fr.last
		if fr.packed {
			t.packed += fr.points
			t.points, t.loose = 0, c.end
			continue
		}
		if t.points == 0 {
			t.loose = fr.at - headerSize
		}
		t.points += fr.points
	}
	return t, c.lost, nil
}

// maxWaiting is how many bytes wait for a disk that cannot be written, for each file.
const maxWaiting = 16 << 10

// add appends a point to the file. If that fails, it stays in memory until there is
// too much of it, and the next add tries again.
func (t *tail) add(path string, p point) error {
	t.waiting = appendFrameTo(t.waiting, t, p)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // a path below our folder
	if err == nil {
		_, err = f.WriteAt(t.waiting, t.end)
		if err != nil {
			_ = f.Truncate(t.end)
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		if len(t.waiting) > maxWaiting {
			t.waiting, t.pending = nil, nil
		}
		return err
	}
	t.end += int64(len(t.waiting))
	for _, fr := range t.pending {
		t.points += fr.points
		t.last = fr.last
	}
	t.waiting, t.pending = t.waiting[:0], t.pending[:0]
	return nil
}

func appendFrameTo(b []byte, t *tail, p point) []byte {
	t.seq++
	fr := frame{seq: t.seq, first: p.slot, last: p.slot, points: 1}
	t.pending = append(t.pending, fr)
	return appendFrame(b, fr, encodeBlock([]point{p}))
}

// full reports whether the loose points should be packed.
func (t *tail) full(ti tier) bool {
	return t.points >= ti.block || t.end-t.loose > ti.budget/16
}

// pack replaces the loose frames by packed ones, and then removes the oldest frames
// beyond what the tier keeps. A process that is killed between the two writes leaves
// the rest of loose frames behind the packed one, which the next scan leaves out.
func (t *tail) pack(path string, ti tier) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0o600) //nolint:gosec // a path below our folder
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	c, err := scan(f, min(st.Size(), maxFile))
	if err != nil {
		return err
	}
	var points []point
	kept := c.frames[:0:0]
	for _, fr := range c.frames {
		if fr.at < t.loose {
			kept = append(kept, fr)
			continue
		}
		if more, err := fr.read(f); err == nil { // a damaged one is lost
			points = append(points, more...)
		}
	}
	points = join(points, ti)
	var out []byte
	if len(points) > 0 {
		payload, err := pack(encodeBlock(points))
		if err != nil {
			return err
		}
		fr := frame{packed: true, seq: t.seq, first: points[0].slot, last: points[0].slot, points: int64(len(points)), length: int64(len(payload))}
		for _, p := range points {
			fr.first, fr.last = min(fr.first, p.slot), max(fr.last, p.slot)
		}
		out = appendFrame(nil, fr, payload)
	}
	if _, err := f.WriteAt(out, t.loose); err != nil {
		return err
	}
	t.end = t.loose + int64(len(out))
	if err := f.Truncate(t.end); err != nil {
		return err
	}
	t.loose, t.points = t.end, 0
	t.packed += int64(len(points))
	return t.shorten(f, path, ti, kept)
}

// shorten removes the oldest frames beyond what the tier keeps.
func (t *tail) shorten(f *os.File, path string, ti tier, kept []frame) error {
	cut, packed := int64(0), t.packed
	for _, fr := range kept {
		if packed-fr.points < ti.keep && t.end-cut <= ti.budget {
			break
		}
		packed -= fr.points
		cut = fr.at + fr.length
	}
	if cut == 0 {
		return nil
	}
	rest := make([]byte, t.end-cut)
	if _, err := f.ReadAt(rest, cut); err != nil {
		return err
	}
	if err := atomicfile.Write(path, rest, 0o600); err != nil {
		return err
	}
	t.end, t.packed, t.loose = t.end-cut, packed, t.loose-cut
	return nil
}

// join puts points of the same slot together, which a restart within a step leaves.
// The order stays.
func join(points []point, ti tier) []point {
	out := points[:0]
	for _, p := range points {
		if n := len(out); n > 0 && out[n-1].slot == p.slot {
			for name, m := range p.rows {
				had := out[n-1].rows[name]
				had.Then(m)
				had.Samples = min(had.Samples, uint64(ti.step/mesh.MeasureStep)) //nolint:gosec // positive
				out[n-1].rows[name] = had
			}
			continue
		}
		out = append(out, p)
	}
	return out
}
