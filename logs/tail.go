package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"
)

// tail is a file of frames, to which one process appends:
//
//	magic   4 bytes
//	length  4 bytes, of the batch
//	sum     4 bytes: CRC-32C of the batch
//	batch
//
// Numbers are little-endian. A frame is written with one call, so that a process that is
// killed leaves at most a torn one at the end, which readers leave out: its lines are
// still in the engine.
type tail struct {
	part
	made time.Time
	file *os.File
	buf  []byte
}

const (
	tailSuffix = ".tail"
	tailMagic  = 0x6d736c31 // "msl1"
	frameHead  = 12
	maxFrame   = 64 << 20 // bytes; more is damage
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errTorn = errors.New("a part of the log is damaged")

func createTail(dir, owner string) (*tail, error) {
	id := newID()
	t := &tail{part: part{path: partPath(dir, id, owner, tailSuffix), id: id, owner: owner}, made: time.Now()}
	var err error
	t.file, err = os.OpenFile(t.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	return t, err
}

// append writes a batch as a frame. After an error nothing of it is left.
func (t *tail) append(b []byte) error {
	t.buf = append(t.buf[:0], make([]byte, frameHead)...)
	binary.LittleEndian.PutUint32(t.buf, tailMagic)
	binary.LittleEndian.PutUint32(t.buf[4:], uint32(len(b))) //nolint:gosec // less than maxFrame
	binary.LittleEndian.PutUint32(t.buf[8:], crc32.Checksum(b, castagnoli))
	t.buf = append(t.buf, b...)
	n, err := t.file.Write(t.buf)
	if err != nil {
		if n > 0 {
			err = errors.Join(err, t.file.Truncate(t.size))
		}
		return err
	}
	t.size += int64(n)
	if cap(t.buf) > 8<<20 {
		t.buf = nil
	}
	return nil
}

// frames calls fn with each batch of a tail.
func (t part) frames(fn func([]byte) error) error {
	f, err := os.Open(t.path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = readFrames(f, 0, fn)
	return err
}

// readFrames calls fn with each whole batch from an offset on, and returns the offset
// after the last one. An incomplete frame at the end is no error. The batch is valid until
// fn returns.
func readFrames(f *os.File, from int64, fn func([]byte) error) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return from, err
	}
	end := info.Size()
	var head [frameHead]byte
	var b []byte
	for from+frameHead <= end {
		if _, err := f.ReadAt(head[:], from); err != nil {
			return from, err
		}
		n := int64(binary.LittleEndian.Uint32(head[4:]))
		if binary.LittleEndian.Uint32(head[:]) != tailMagic || n > maxFrame {
			return from, fmt.Errorf("%w at byte %d", errTorn, from)
		}
		if from+frameHead+n > end {
			return from, nil // it is being written, or was torn
		}
		if int64(cap(b)) < n {
			b = make([]byte, n)
		}
		b = b[:n]
		if _, err := f.ReadAt(b, from+frameHead); err != nil && !errors.Is(err, io.EOF) {
			return from, err
		}
		if crc32.Checksum(b, castagnoli) != binary.LittleEndian.Uint32(head[8:]) {
			return from, fmt.Errorf("%w at byte %d", errTorn, from)
		}
		from += frameHead + n
		if err := fn(b); err != nil {
			return from, err
		}
	}
	return from, nil
}
