package logs

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
)

// cursor is how far the output of a container has been read: its last line, in the order
// in which the engine has them. It is written in one piece with the lines before it, so
// that after a kill no line is read twice, and none is left out.
//
// The times of lines do not order them: the two streams of a container are stamped before
// they are written, and a clock may be set back.
type cursor struct {
	at     int64  // the line's time, in nanoseconds
	stream byte   // 1 or 2
	hash   uint64 // of its text
	same   uint64 // how many lines with all of this there were, in a row
}

// next returns the cursor after one more line.
func (c cursor) next(at int64, stream byte, text []byte) cursor {
	n := cursor{at: at, stream: stream, hash: xxhash.Sum64(text), same: 1}
	if c.at == n.at && c.stream == n.stream && c.hash == n.hash {
		n.same = c.same + 1
	}
	return n
}

func (c cursor) encode(dst []byte, id string) []byte {
	dst = appendText(dst, id)
	dst = binary.AppendVarint(dst, c.at)
	dst = append(dst, c.stream)
	dst = binary.LittleEndian.AppendUint64(dst, c.hash)
	return binary.AppendUvarint(dst, c.same)
}

func decodeCursor(r *reader) (id string, c cursor) {
	id = r.text()
	c.at, c.stream = r.varint(), r.byte()
	if b := r.bytes(8); b != nil {
		c.hash = binary.LittleEndian.Uint64(b)
	}
	c.same = r.uvarint()
	return id, c
}
