package backups

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"mesh"
)

// Open returns the content of a backup, decrypted and decompressed: of the one with an ID, or
// with Latest as the ID, of the newest of a subject. server limits Latest as in Find. identity
// is for encrypted ones: a file of age-keygen, or an SSH key.
//
// Only a read that returns io.EOF proves the content: if a byte is not what was written, an
// error comes instead, at the latest then. Whoever needs that before the end reads twice.
func (b *Backups) Open(ctx context.Context, at mesh.BackupPlace, subject mesh.BackupSubject, server, id string, identity mesh.Secret) (io.ReadCloser, mesh.Backup, error) {
	ids, err := parseIdentities(identity)
	if err != nil {
		return nil, mesh.Backup{}, err
	}
	p, err := b.place(at)
	if err != nil {
		return nil, mesh.Backup{}, err
	}
	about, err := b.find(ctx, p, at, subject, server, id)
	if err != nil {
		return nil, about, err
	}
	if about.Encrypted && len(ids) == 0 {
		return nil, about, mesh.Errorf(mesh.Denied, "the backup %s is encrypted", about.ID).WithHint("give the key that decrypts it: --identity - < KEY; mesh restore takes --identity FILE")
	}
	r, err := open(ctx, p, about, ids)
	if err != nil {
		return nil, about, err
	}
	return r, about, nil
}

// damaged is the error for a backup that is not what was written.
func damaged(about mesh.Backup, why string, args ...any) error {
	return mesh.Errorf(mesh.Damaged, "the backup %s is damaged: %s", about.ID, mesh.Visible(mesh.Clip(fmt.Sprintf(why, args...), 200))).WithHint("use another one: ssh mesh backup:list")
}

// checked reads a stored file and compares it with its description at the end.
type checked struct {
	r     io.Reader
	about mesh.Backup
	sum   hash.Hash
	n     int64
	err   error // of the place, which is no damage
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	_, _ = c.sum.Write(p[:n])
	c.n += int64(n)
	switch {
	case c.n > c.about.Size:
		return n, damaged(c.about, "its file is longer than %d bytes", c.about.Size)
	case errors.Is(err, io.EOF):
		if c.n < c.about.Size {
			return n, damaged(c.about, "its file has only %d of %d bytes", c.n, c.about.Size)
		}
		if hex.EncodeToString(c.sum.Sum(nil)) != c.about.Sum {
			return n, damaged(c.about, "the checksum of its file does not match")
		}
	case err != nil:
		c.err = err
	}
	return n, err
}

// content reads what was backed up.
type content struct {
	file   io.Closer
	stored *checked
	plain  *zstd.Decoder
	sum    hash.Hash
	n      int64
	done   error // what every further read returns
}

func open(ctx context.Context, p place, about mesh.Backup, ids []age.Identity) (*content, error) {
	file, err := p.open(ctx, about.File)
	if err != nil {
		return nil, err
	}
	c := &content{file: file, stored: &checked{r: file, about: about, sum: sha256.New()}, sum: sha256.New()}
	var r io.Reader = c.stored
	if about.Encrypted {
		if r, err = age.Decrypt(r, ids...); err != nil {
			var none *age.NoIdentityMatchError
			if errors.As(err, &none) {
				err = mesh.Errorf(mesh.Denied, "the identity does not decrypt the backup %s: it was encrypted for other keys", about.ID).WithHint("give the key of one of its recipients")
			} else {
				err = c.fault(err)
			}
			return nil, errors.Join(err, file.Close())
		}
	}
	if c.plain, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20)); err != nil {
		return nil, errors.Join(c.fault(err), file.Close())
	}
	return c, nil
}

// fault returns why the content cannot be read.
func (c *content) fault(err error) error {
	var told *mesh.Error
	switch {
	case c.stored.err != nil:
		return c.stored.err
	case errors.As(err, &told):
		return told
	}
	return damaged(c.stored.about, "%v", err)
}

func (c *content) Read(p []byte) (int, error) {
	if c.done != nil {
		return 0, c.done
	}
	n, err := c.plain.Read(p)
	_, _ = c.sum.Write(p[:n])
	c.n += int64(n)
	switch about := c.stored.about; {
	case errors.Is(err, io.EOF):
		// The decoder may stop before the end of the file.
		if _, rerr := io.Copy(io.Discard, c.stored); rerr != nil {
			err = c.fault(rerr)
		} else if c.n != about.Content || hex.EncodeToString(c.sum.Sum(nil)) != about.PlainSum {
			err = damaged(about, "the checksum of its content does not match")
		}
	case err != nil:
		err = c.fault(err)
	case c.n > about.Content:
		err = damaged(about, "its content is longer than %d bytes", about.Content)
	}
	c.done = err
	return n, err
}

func (c *content) Close() error {
	c.plain.Close()
	return c.file.Close()
}

// Verify reads a whole backup again, as Open finds it, and compares it with its checksums.
// inspect, unless it is nil, reads the content, and returns what it is. Of an encrypted backup
// without its identity, only the stored bytes are read.
func (b *Backups) Verify(ctx context.Context, at mesh.BackupPlace, subject mesh.BackupSubject, server, id string, identity mesh.Secret, inspect func(mesh.Backup, io.Reader) (string, error)) (out mesh.BackupCheck, err error) {
	begun := b.Now()
	out.Place = at.URL
	defer func() { out.Took = b.Now().Sub(begun) }()
	p, err := b.place(at)
	if err != nil {
		return out, err
	}
	if out.Backup, err = b.find(ctx, p, at, subject, server, id); err != nil {
		return out, err
	}
	if out.Backup.Encrypted && identity.Reveal() == "" {
		file, err := p.open(ctx, out.Backup.File)
		if err != nil {
			return out, err
		}
		_, err = io.Copy(io.Discard, &checked{r: file, about: out.Backup, sum: sha256.New()})
		return out, errors.Join(err, file.Close())
	}
	r, _, err := b.Open(ctx, at, subject, server, out.Backup.ID, identity)
	if err != nil {
		return out, err
	}
	defer r.Close()
	if inspect != nil {
		out.Content, err = inspect(out.Backup, r)
	}
	if rest := new(counter); err == nil {
		if _, err = io.Copy(rest, r); err == nil && inspect != nil && rest.n > 0 {
			err = damaged(out.Backup, "%d bytes follow its content", rest.n)
		}
	} else if _, cerr := io.Copy(io.Discard, r); cerr != nil {
		err = cerr // why the content could not be read
	}
	out.Read = err == nil
	return out, err
}

// counter counts what is written to it.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}
