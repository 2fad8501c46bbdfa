package backups

import (
	"cmp"
	"crypto/md5" //nolint:gosec // S3's own checksum of a part
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
)

// inMemory is how much of a part is in memory. The rest is in a file.
const inMemory = 4 << 20

// part is a piece of an upload, kept until the server has it, because a request may have to
// be sent again. Its file has no name, so a killed process leaves nothing.
type part struct {
	temp  string
	head  []byte
	file  *os.File // what follows head; nil: nothing
	size  int64
	sum   hash.Hash
	check hash.Hash
}

func newPart(temp string) *part {
	return &part{temp: temp, sum: sha256.New(), check: md5.New()} //nolint:gosec // as above
}

func (p *part) where() string { return cmp.Or(p.temp, os.TempDir()) }

func (p *part) Write(b []byte) (n int, err error) {
	if n = min(len(b), inMemory-len(p.head)); n > 0 {
		if p.head == nil {
			p.head = make([]byte, 0, inMemory)
		}
		p.head = append(p.head, b[:n]...)
	}
	if rest := b[n:]; len(rest) > 0 {
		if p.file == nil {
			if err := p.open(); err != nil {
				return n, err
			}
		}
		m, err := p.file.Write(rest)
		if n += m; err != nil {
			return n, err
		}
	}
	p.size += int64(n)
	_, _ = p.sum.Write(b[:n])
	_, _ = p.check.Write(b[:n])
	return n, nil
}

func (p *part) open() (err error) {
	if p.file, err = os.CreateTemp(p.temp, ".mesh-part-*"); err != nil {
		return err
	}
	return os.Remove(p.file.Name())
}

// reader returns the part from its beginning, with its SHA-256 in hex and its MD5 in base64.
// It can seek: whoever sends it may have to begin again.
func (p *part) reader() (r io.ReadSeeker, sum, check string) {
	return io.NewSectionReader(p, 0, p.size), hex.EncodeToString(p.sum.Sum(nil)), base64.StdEncoding.EncodeToString(p.check.Sum(nil))
}

// ReadAt reads what was written.
func (p *part) ReadAt(b []byte, off int64) (n int, err error) {
	if off < int64(len(p.head)) {
		n = copy(b, p.head[off:])
	}
	if n == len(b) {
		return n, nil
	}
	if p.file == nil {
		return n, io.EOF
	}
	m, err := p.file.ReadAt(b[n:], off+int64(n)-int64(len(p.head)))
	return n + m, err
}

// reset empties the part.
func (p *part) reset() error {
	p.head, p.size = p.head[:0], 0
	p.sum.Reset()
	p.check.Reset()
	if p.file == nil {
		return nil
	}
	_, err := p.file.Seek(0, io.SeekStart)
	return errors.Join(err, p.file.Truncate(0))
}

func (p *part) close() {
	if p.file != nil {
		_ = p.file.Close()
		p.file = nil
	}
}
