// Package backups keeps copies of data in places: folders, and S3 servers. A copy is
// compressed with zstd, has checksums of what was written and of what is stored, and is
// encrypted with age if recipients are named.
//
// A backup is one file, mesh-20261127T030000Z.tar.zst or ….zst.age, and a description beside
// it, the same name with .json, which is written last: a file without it is not whole, and
// the next backup of its subject removes it when it is more than a day old. Backups are
// streams: neither memory nor the disk ever holds a whole one.
//
// What is in a backup, when one is made, and who hears about it is left to the caller.
//
//	b := backups.New(backups.Options{})
//	made, err := b.Take(ctx, mesh.BackupPlace{URL: "/backup"}, about, "tar", nil, dump)
//	r, about, err := b.Open(ctx, place, mesh.BackupMesh, "", "latest", nil)
package backups

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"mesh"
)

// Options are what Backups work with. All fields may be empty.
type Options struct {
	// Data is a data directory: of what is in it, only the folder backups can be a place.
	Data   string
	Temp   string           // a folder for parts of an upload; empty: the system's
	Logger *slog.Logger     // nil: nothing is logged
	Now    func() time.Time // nil: time.Now

	// Patience is how long an S3 server may be away in the middle of an upload, or send
	// nothing while a backup is read; 0: 2 min.
	Patience time.Duration
	// PartSize is the size of the parts of an upload to S3, in bytes; 0: 112 MB, of which
	// 10,000, the most that S3 takes, are more than 1 TB.
	PartSize int64
	// Reserve is how much stays free, in bytes, on the disk of Data if a place is there as
	// well; 0: 512 MB.
	Reserve int64
}

// Unfinished is how old a file without its description must be to be removed.
const Unfinished = 24 * time.Hour

// Backups takes, lists, reads and removes backups. Its methods may be called from several
// goroutines.
type Backups struct{ Options }

// New returns Backups.
func New(o Options) *Backups {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Patience, o.PartSize = cmp.Or(o.Patience, 2*time.Minute), cmp.Or(o.PartSize, 112<<20)
	o.Reserve = cmp.Or(o.Reserve, 512<<20)
	return &Backups{o}
}

// item is a file in a place.
type item struct {
	name     string
	size     int64
	modified time.Time
}

// place is where files are. Its errors are fit for people.
type place interface {
	// prepare makes the place ready to be written to, or says why it is not.
	prepare(ctx context.Context) error
	// list returns the files whose names begin with prefix, or with a dot and prefix, in any
	// order. A place that does not exist has none.
	list(ctx context.Context, prefix string) ([]item, error)
	// create begins a new file, which does not exist until it is committed.
	create(ctx context.Context, name string) sink
	// put writes a small file as a whole.
	put(ctx context.Context, name string, data []byte) error
	open(ctx context.Context, name string) (io.ReadCloser, error)
	// remove removes a file. It is no error if there is none.
	remove(ctx context.Context, name string) error
	// forget removes what files that were never committed have left, if it is older than
	// before and its name is accepted.
	forget(ctx context.Context, before time.Time, accept func(name string) bool) error
}

// sink is a file that is being written.
type sink interface {
	io.Writer
	commit(ctx context.Context) error
	// abort removes what there is of it. After commit it does nothing.
	abort()
}

func (b *Backups) place(at mesh.BackupPlace) (place, error) {
	if s, ok := at.URL.S3(); ok {
		return b.newS3(s, at)
	}
	if at.URL == "" {
		return nil, errors.New("backups: a place has no URL")
	}
	return &folder{dir: string(at.URL), data: b.Data, reserve: b.Reserve}, nil
}

// Prepare makes a place ready to be written to: it creates a folder whose parent exists, and
// asks an S3 server. It returns an error if backups cannot be kept there, or if one of the
// recipients cannot be read.
func (b *Backups) Prepare(ctx context.Context, at mesh.BackupPlace, recipients []string) error {
	if _, err := parseRecipients(recipients); err != nil {
		return err
	}
	p, err := b.place(at)
	if err != nil {
		return err
	}
	return p.prepare(ctx)
}

// Take makes a backup of what dump writes, and returns its description. about has the
// subject, the server, the kind and the versions; ext is the extension of the file. After an
// error, nothing is left that counts as a backup: not of the one that failed, and of earlier
// ones nothing is changed. dump is not called again, and its context ends with ctx.
func (b *Backups) Take(ctx context.Context, at mesh.BackupPlace, about mesh.Backup, ext string, recipients []string, dump func(context.Context, io.Writer) error) (mesh.Backup, error) {
	to, err := parseRecipients(recipients)
	if err != nil {
		return mesh.Backup{}, err
	}
	p, err := b.place(at)
	if err != nil {
		return mesh.Backup{}, err
	}
	if err := p.prepare(ctx); err != nil {
		return mesh.Backup{}, err
	}
	there, err := p.list(ctx, string(about.Subject)+"-")
	if err != nil {
		return mesh.Backup{}, err
	}
	b.sweep(ctx, p, about.Subject, there)
	about.Format, about.Encrypted = mesh.BackupFormat, len(to) > 0
	about.Created = b.Now().UTC().Truncate(time.Second)
	for taken(there, mesh.BackupID(about.Subject, about.Created)) {
		about.Created = about.Created.Add(time.Second)
	}
	if _, shared := at.URL.S3(); shared {
		var leave func()
		if about.Created, leave, err = b.claim(ctx, p, about); err != nil {
			return mesh.Backup{}, err
		}
		defer leave()
	}
	about.ID = mesh.BackupID(about.Subject, about.Created)
	about.File = fileName(about.ID, ext, about.Encrypted)
	if !fileRule.MatchString(about.File) {
		return mesh.Backup{}, fmt.Errorf("backups: %q is no name for a file", about.File)
	}

	out := p.create(ctx, about.File)
	defer out.abort()
	stored := &counted{ctx: ctx, w: out, sum: sha256.New()}
	plain, err := write(ctx, stored, to, dump)
	if stored.err != nil {
		err = stored.err // of which the dump may have made something else
	}
	if err != nil {
		return mesh.Backup{}, cmp.Or(ended(ctx), err)
	}
	about.Size, about.Sum, about.Content, about.PlainSum = stored.n, stored.hex(), plain.n, plain.hex()
	if err := out.commit(ctx); err != nil {
		return mesh.Backup{}, cmp.Or(ended(ctx), err)
	}
	data, err := describe(about)
	if err == nil {
		err = p.put(ctx, about.File+descriptionExt, data)
	}
	if err != nil {
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
		defer cancel()
		err = errors.Join(cmp.Or(ended(ctx), err), p.remove(rctx, about.File+descriptionExt), p.remove(rctx, about.File))
		return mesh.Backup{}, err
	}
	return about, nil
}

// cleanTime limits how long it takes to clean up after a failure.
const cleanTime = 30 * time.Second

// ended returns why ctx has ended, or nil.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}

// write sends what dump writes through compression and encryption.
func write(ctx context.Context, w io.Writer, to []age.Recipient, dump func(context.Context, io.Writer) error) (*counted, error) {
	var sealed io.WriteCloser
	if len(to) > 0 {
		var err error
		if sealed, err = age.Encrypt(w, to...); err != nil {
			return nil, err
		}
		w = sealed
	}
	// One megabyte of history is enough for tars and dumps, and keeps the use of memory small.
	small, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	plain := &counted{ctx: ctx, w: small, sum: sha256.New()}
	if err := dump(ctx, plain); err != nil {
		_ = small.Close() // frees what it uses
		return nil, err
	}
	if err := small.Close(); err != nil {
		return nil, err
	}
	if sealed != nil {
		err = sealed.Close()
	}
	return plain, err
}

// counted hashes and counts what it passes on, until ctx ends. It keeps the first error.
type counted struct {
	ctx context.Context
	w   io.Writer
	sum hash.Hash
	n   int64
	err error
}

func (c *counted) Write(p []byte) (int, error) {
	if c.err == nil && c.ctx.Err() != nil {
		c.err = context.Cause(c.ctx)
	}
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.w.Write(p)
	_, _ = c.sum.Write(p[:n])
	c.n += int64(n)
	c.err = err
	return n, err
}

func (c *counted) hex() string { return hex.EncodeToString(c.sum.Sum(nil)) }

// listHint is the command that lists the backups of a subject.
func listHint(s mesh.BackupSubject) string {
	if v, is := s.Volume(); is {
		return fmt.Sprintf("ssh mesh volumes:backups %s", v)
	}
	if s == mesh.BackupMesh {
		return "ssh mesh backup:list --to PLACE"
	}
	return fmt.Sprintf("ssh mesh addons:backups %s", s)
}

// claimExt is the end of the names of claims.
const claimExt = ".claim"

// claim finds a time, from about.Created on, that no other server gives a backup in the same place: a
// nightly backup begins everywhere in the same second, and one with the same name would replace the
// other. An object says that the name is taken, until leave is called. Lists of S3 show what was
// written before (Amazon S3 User Guide, data consistency model), so of two servers at most one sees
// nothing but its own.
func (b *Backups) claim(ctx context.Context, p place, about mesh.Backup) (at time.Time, leave func(), err error) {
	sum := sha256.Sum256([]byte(about.Server))
	tag := hex.EncodeToString(sum[:4])
	at = about.Created
	for range 30 {
		id := mesh.BackupID(about.Subject, at)
		name := id + "." + tag + claimExt
		if err := p.put(ctx, name, []byte("{}\n")); err != nil {
			return at, nil, err
		}
		leave = func() {
			rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
			defer cancel()
			if err := p.remove(rctx, name); err != nil {
				b.Logger.Warn("what unfinished backups have left was not removed", "object", name, "err", err)
			}
		}
		there, err := p.list(ctx, id)
		if err != nil {
			leave()
			return at, nil, err
		}
		alone := true
		for _, i := range there {
			if old := strings.HasSuffix(i.name, claimExt) && i.modified.Before(b.Now().Add(-Unfinished)); i.name != name && !old {
				alone = false
			}
		}
		if alone {
			return at, leave, nil
		}
		leave()
		at = at.Add(time.Duration(1+rand.IntN(20)) * time.Second)
	}
	return at, nil, mesh.Errorf(mesh.Unavailable, "other servers make backups of %s in the same place all the time", about.Subject).WithHint("give each server a prefix of its own")
}

// taken reports whether there is a file of a backup.
func taken(there []item, id string) bool {
	return slices.ContainsFunc(there, func(i item) bool {
		n, ok := parseName(i.name)
		return ok && n.id == id
	})
}

// sweep removes what backups of a subject have left that were never finished, if it is old.
// Whatever cannot be removed stays for the next time.
func (b *Backups) sweep(ctx context.Context, p place, subject mesh.BackupSubject, there []item) {
	before := b.Now().Add(-Unfinished)
	own := func(name string) bool {
		n, ok := parseName(name)
		return ok && n.subject == subject
	}
	err := p.forget(ctx, before, own)
	described := map[string]bool{}
	for _, i := range there {
		if n, ok := parseName(i.name); ok && n.description {
			described[n.file] = true
		}
	}
	for _, i := range there {
		if id, _, is := strings.Cut(i.name, "."); is && strings.HasSuffix(i.name, claimExt) && i.modified.Before(before) {
			if s, _, perr := mesh.ParseBackupID(id); perr == nil && s == subject {
				err = errors.Join(err, p.remove(ctx, i.name))
			}
			continue
		}
		if n, ok := parseName(i.name); !ok || n.subject != subject || n.description || n.partial || described[n.file] || !i.modified.Before(before) {
			continue
		}
		if rerr := p.remove(ctx, i.name); rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		b.Logger.Info("removed a backup that was never finished", "backup", i.name)
	}
	if err != nil && ctx.Err() == nil {
		b.Logger.Warn("what unfinished backups have left was not removed", "subject", string(subject), "err", err)
	}
}

// listers is how many descriptions are read at the same time.
const listers = 8

// List returns all backups in a place, the newest first, with those that are not whole. A
// folder that does not exist has none.
func (b *Backups) List(ctx context.Context, at mesh.BackupPlace) ([]mesh.Backup, error) {
	p, err := b.place(at)
	if err != nil {
		return nil, err
	}
	return b.list(ctx, p, "")
}

func (b *Backups) list(ctx context.Context, p place, prefix string) ([]mesh.Backup, error) {
	there, err := p.list(ctx, prefix)
	if err != nil {
		return nil, err
	}
	type found struct {
		name
		size      int64
		is        bool
		described bool
		about     mesh.Backup
	}
	byFile := map[string]*found{}
	for _, i := range there {
		n, ok := parseName(i.name)
		if !ok || n.partial {
			continue
		}
		f := byFile[n.file]
		if f == nil {
			f = &found{name: n}
			byFile[n.file] = f
		}
		if n.description {
			f.described = true
		} else {
			f.is, f.size = true, i.size
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(listers)
	for _, f := range byFile {
		f.about = mesh.Backup{ID: f.id, Subject: f.subject, Created: f.created, File: f.file, Size: f.size, Encrypted: f.encrypted}
		if !f.described {
			f.about.Fault = "unfinished"
			continue
		}
		g.Go(func() error {
			about, err := readDescription(gctx, p, f.name)
			var told *mesh.Error
			switch {
			case errors.As(err, &told) && told.Kind == mesh.Damaged:
				f.about.Fault = told.Text
			case err != nil:
				return err
			default:
				f.about = about
			}
			switch {
			case f.about.Fault != "":
			case !f.is:
				f.about.Fault = "its file is missing"
			case f.size != f.about.Size:
				f.about.Fault = fmt.Sprintf("its file has %d bytes instead of %d", f.size, f.about.Size)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := make([]mesh.Backup, 0, len(byFile))
	for _, f := range byFile {
		out = append(out, f.about)
	}
	slices.SortFunc(out, func(a, b mesh.Backup) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.File, b.File))
	})
	return out, nil
}

// Latest is what find takes for the newest whole backup.
const Latest = "latest"

// find returns the whole backup with an ID, or the newest one of a subject. server, unless it
// is empty, limits latest to what that server has made.
func (b *Backups) find(ctx context.Context, p place, at mesh.BackupPlace, subject mesh.BackupSubject, server, id string) (mesh.Backup, error) {
	prefix := string(subject) + "-"
	if id != Latest {
		if _, _, err := mesh.ParseBackupID(id); err != nil {
			return mesh.Backup{}, err
		}
		prefix = id
	}
	all, err := b.list(ctx, p, prefix)
	if err != nil {
		return mesh.Backup{}, err
	}
	var made *mesh.Backup
	for _, c := range all {
		switch {
		case id != Latest && c.ID != id, id == Latest && (c.Subject != subject || !c.Whole() || server != "" && c.Server != server):
		case id != Latest && !c.Whole():
			return c, mesh.Errorf(mesh.Conflict, "the backup %s is not whole: %s", c.ID, c.Fault).WithHint("choose another one, or latest: %s", listHint(subject))
		case made == nil:
			made = &c
		case made.Server != c.Server:
			return c, mesh.Errorf(mesh.Conflict, "%s has backups of two servers: latest could be either", at.URL).WithHint("name one: its ID instead of latest")
		}
	}
	switch {
	case made != nil:
		return *made, nil
	case id == Latest:
		return mesh.Backup{}, mesh.Errorf(mesh.NotFound, "%s has no whole backup of %s", at.URL, subject).WithHint("list what is there: %s", listHint(subject))
	}
	return mesh.Backup{}, mesh.Errorf(mesh.NotFound, "%s has no backup %s", at.URL, id).WithHint("list what is there: %s", listHint(subject))
}

// Find returns the description of a whole backup: the one with an ID, or with Latest as the
// ID, the newest of a subject. server, unless it is empty, limits Latest to what the server
// with this ID has made.
func (b *Backups) Find(ctx context.Context, at mesh.BackupPlace, subject mesh.BackupSubject, server, id string) (mesh.Backup, error) {
	p, err := b.place(at)
	if err != nil {
		return mesh.Backup{}, err
	}
	return b.find(ctx, p, at, subject, server, id)
}

// Remove removes a backup: its file and its description.
func (b *Backups) Remove(ctx context.Context, at mesh.BackupPlace, made mesh.Backup) error {
	p, err := b.place(at)
	if err != nil {
		return err
	}
	// In this order: if the second fails, what is left does not count as a backup.
	if err := p.remove(ctx, made.File+descriptionExt); err != nil {
		return err
	}
	return p.remove(ctx, made.File)
}

// Keep removes the older whole backups of made's subject and server, beyond n with made, and
// returns their IDs. made stays, even if the clock was set back and others look newer.
// Nothing else is touched.
func (b *Backups) Keep(ctx context.Context, at mesh.BackupPlace, made mesh.Backup, n int) (removed []string, err error) {
	p, err := b.place(at)
	if err != nil {
		return nil, err
	}
	all, err := b.list(ctx, p, string(made.Subject)+"-")
	if err != nil {
		return nil, err
	}
	kept := 1
	for _, c := range all {
		if c.Subject != made.Subject || c.Server != made.Server || !c.Whole() || c.ID == made.ID {
			continue
		}
		if kept++; kept <= n {
			continue
		}
		// In this order: if the second fails, what is left does not count as a backup.
		if err := p.remove(ctx, c.File+descriptionExt); err != nil {
			return removed, err
		}
		removed = append(removed, c.ID)
		if err := p.remove(ctx, c.File); err != nil {
			return removed, err
		}
	}
	return removed, nil
}
