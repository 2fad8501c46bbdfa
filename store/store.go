// Package store keeps the state of a mesh server: stacks, releases, deployments,
// domains and keys in one bbolt file, and the recorded output of deployments in
// plain files beside it.
//
// Each exported method is one transaction: it happens completely or not at all, and
// is on disk when it returns. Config vars are sealed with a key in a file beside the
// database, so that neither the database nor a dump of it shows one. Package deploy
// decides what the records mean, and who may change them.
//
//	s, err := store.Open("/var/lib/mesh")
//	defer s.Close()
//	stacks, err := s.Stacks(ctx)
package store

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"mesh"
)

// formatVersion is written into a new database. A database of a later version is
// refused: an older binary would lose the data that it does not understand.
const formatVersion = 1

var (
	bucketMeta    = []byte("meta")
	bucketStacks  = []byte("stacks")
	bucketDomains = []byte("domains")
	bucketKeys    = []byte("keys")

	keyVersion  = []byte("version")
	keyServer   = []byte("server")
	keySeal     = []byte("seal") // proof that secret.key is the right one
	keySettings = []byte("settings")

	keyRecord         = []byte("record")
	bucketConfigs     = []byte("configs")
	bucketReleases    = []byte("releases")
	bucketDeployments = []byte("deployments")
)

// Store is an open data directory. It may be used from several goroutines. Close it
// last.
type Store struct {
	dir    string
	db     *bbolt.DB
	seal   sealer
	server string

	mu     sync.Mutex
	damage []mesh.Damage
	notes  []string
}

// Open opens the state in dir, creating both if they are missing. It fails at once,
// with a *mesh.Error, if another server has it open, if the file is damaged or was
// written by a later mesh, if the key that seals config vars is missing, or if the
// file is missing or from another server while other parts of a data directory
// exist. It needs no space on the disk, except for a new directory. A single damaged
// record is not an error: see Damaged.
func Open(dir string) (s *Store, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		if mesh.NoRoom(err) {
			return nil, mesh.TellNoRoom(err)
		}
		return nil, mesh.Errorf(mesh.Unavailable, "cannot create the data directory: %w", err).WithHint("choose another with --data DIR")
	}
	path := filepath.Join(dir, "mesh.db")
	if have := withoutState(dir); len(have) > 0 {
		what := "missing"
		if _, err := os.Lstat(path); err == nil {
			what = "empty"
		}
		return nil, noState(dir, what, have)
	}

	// bbolt panics on unexpected pages, and it maps a truncated file completely:
	// reading beyond its end is a fault that would end the process.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var file *os.File // bbolt's file, which a panic in bbolt.Open leaves open and locked
	defer func() {
		if r := recover(); r != nil {
			// The mapping that the panic left behind also holds the file's lock.
			_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
			_ = file.Close()
			s, err = nil, damaged(path, fmt.Errorf("%v", r))
		}
	}()

	o := &bbolt.Options{
		Timeout: 50 * time.Millisecond, FreelistType: bbolt.FreelistMapType,
		OpenFile: func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		},
	}
	db, err := bbolt.Open(path, 0o600, o)
	readOnly := errors.Is(err, syscall.EROFS)
	if readOnly { // running apps can still be served
		o.ReadOnly = true
		db, err = bbolt.Open(path, 0o600, o)
	}
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, mesh.Errorf(mesh.Conflict, "another mesh server is using %s", dir).WithHint("stop that one first, or give this one its own directory with --data DIR")
	case mesh.NoRoom(err): // a new one
		return nil, mesh.TellNoRoom(err)
	case errors.Is(err, os.ErrPermission):
		return nil, mesh.Errorf(mesh.Unavailable, "cannot open %s: %w", path, err).WithHint("run mesh as the owner of the directory, or choose another with --data DIR")
	case err != nil && !errors.Is(err, os.ErrInvalid) && isPathError(err):
		return nil, mesh.Errorf(mesh.Unavailable, "cannot open %s: %w", path, err)
	case err != nil:
		return nil, damaged(path, err)
	}
	s = &Store{dir: dir, db: db}
	if readOnly {
		s.note(dir + " is read-only: nothing can be changed")
	}
	if err := s.load(path); err != nil {
		_ = db.Close()
		return nil, err
	}
	return s, nil
}

func isPathError(err error) bool {
	var pe *os.PathError
	return errors.As(err, &pe)
}

func damaged(path string, err error) error {
	return mesh.Errorf(mesh.Unavailable, "the data file %s is damaged: %w", path, err).
		WithHint("replace it with a backup (docs/operating.md, Restore); the containers keep running meanwhile")
}

// Notes are findings of the start that somebody should hear about.
func (s *Store) Notes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.notes)
}

func (s *Store) note(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.notes, text) {
		s.notes = append(s.notes, text)
	}
}

var rootBuckets = [][]byte{bucketMeta, bucketStacks, bucketDomains, bucketKeys}

// load checks the file, creates the buckets and reads the sealing key.
func (s *Store) load(path string) error {
	fresh := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return fmt.Errorf("it is cut off: %d bytes of %d", info.Size(), tx.Size())
		}
		// No bucket: it is new, or a server was killed before it wrote one.
		k, _ := tx.Cursor().First()
		fresh = k == nil
		if err := walk(tx); err != nil {
			return err
		}
		if err := checkAll(tx); err != nil || fresh {
			return err
		}
		for _, b := range rootBuckets {
			if tx.Bucket(b) == nil {
				return fmt.Errorf("it has no bucket %q", b)
			}
		}
		return nil
	})
	if err != nil {
		return damaged(path, err)
	}
	if have := inhabited(s.dir); fresh && len(have) > 0 {
		return noState(s.dir, "empty", have)
	}
	if s.seal, err = openSealer(filepath.Join(s.dir, "secret.key"), fresh); err != nil {
		return err
	}
	if fresh {
		if err := s.db.Update(s.begin); err != nil {
			return noRoom(err)
		}
	}
	if err := s.db.View(func(tx *bbolt.Tx) error { return s.readMeta(tx, path) }); err != nil {
		return err
	}
	if err := s.identify(); err != nil {
		return err
	}
	return s.review()
}

// begin initializes a new database.
func (s *Store) begin(tx *bbolt.Tx) error {
	for _, b := range rootBuckets {
		if _, err := tx.CreateBucketIfNotExists(b); err != nil {
			return err
		}
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return err
	}
	id := hex.EncodeToString(b[:])
	meta := tx.Bucket(bucketMeta)
	return errors.Join(meta.Put(keyVersion, number(formatVersion)), meta.Put(keyServer, []byte(id)), meta.Put(keySeal, s.seal.proof(id)))
}

// readMeta reads the metadata of the database.
func (s *Store) readMeta(tx *bbolt.Tx, path string) error {
	meta := tx.Bucket(bucketMeta)
	v := meta.Get(keyVersion)
	if len(v) != 8 {
		return damaged(path, errors.New("its version is missing"))
	}
	id := meta.Get(keyServer)
	s.server = string(id)
	proof := meta.Get(keySeal)
	sealed := proof != nil && hmac.Equal(proof, s.seal.proof(s.server))
	switch v := binary.BigEndian.Uint64(v); {
	case v != formatVersion && sealed && v < formatVersion, v == 0:
		return damaged(path, fmt.Errorf("its version is %d", v))
	case v > formatVersion:
		return mesh.Errorf(mesh.Conflict, "%s was written by a later mesh (format %d, this one supports %d)", path, v, formatVersion).
			WithHint("run that version, or restore the backup that was made before the upgrade")
	}
	if b, err := hex.DecodeString(s.server); err != nil || len(b) != 8 {
		return damaged(path, fmt.Errorf("its server id is %q", mesh.Clip(s.server, 40)))
	}
	if proof == nil || sealed {
		return nil
	}
	return mesh.Errorf(mesh.Unavailable, "the config vars cannot be decrypted: %s is not the key that mesh.db was written with", filepath.Join(s.dir, "secret.key")).
		WithHint("restore mesh.db and secret.key from the same backup (docs/operating.md, Restore)")
}

// review looks for damaged records, and adds what an earlier mesh did not write:
// checksums, and the proof that mesh.db and secret.key belong together. It can wait
// if the disk is full.
func (s *Store) review() error {
	todo := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		s.found(s.scan(tx))
		wrong, err := s.mendDomains(tx, false)
		if wrong > 0 {
			s.note(fmt.Sprintf("the index of domains was wrong in %d places and has been rebuilt from the stacks", wrong))
		}
		todo = wrong > 0 || tx.Bucket(bucketMeta).Get(keySeal) == nil
		if !todo {
			errTodo := errors.New("there is one")
			if werr := withoutSum(tx, func(*bbolt.Bucket, []byte, []byte) error { return errTodo }); werr != nil {
				todo = true
			}
		}
		return err
	})
	if err != nil || !todo {
		return err
	}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		if _, err := s.mendDomains(tx, true); err != nil {
			return err
		}
		// Only add the proof if the key has been seen to fit.
		if tx.Bucket(bucketMeta).Get(keySeal) == nil && !slices.ContainsFunc(s.Damaged(), func(d mesh.Damage) bool { return d.Stack != "" }) {
			if err := tx.Bucket(bucketMeta).Put(keySeal, s.seal.proof(s.server)); err != nil {
				return err
			}
		}
		return withoutSum(tx, func(b *bbolt.Bucket, k, v []byte) error {
			if !s.intact(k, v) {
				return nil // a checksum would make it look sound
			}
			return b.Put(k, addSum(v))
		})
	})
	if err = noRoom(err); mesh.NoRoom(err) {
		s.note(fmt.Sprintf("cannot write to %s: %v", s.dir, err))
		return nil
	}
	return err
}

// intact reports whether a record without a checksum can be read as any known kind.
func (s *Store) intact(key, data []byte) bool {
	if string(key) == string(keyRecord) {
		var f stackForm
		err := parse(key, data, &f)
		return err == nil || parse([]byte(f.Name), data, new(stackForm)) == nil
	}
	for _, f := range []form{new(releaseForm), new(deploymentForm), new(keyForm), new(registryForm), new(auditForm)} {
		if parse(key, data, f) == nil {
			return true
		}
	}
	return false
}

// found replaces the list of damaged records.
func (s *Store) found(all []mesh.Damage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damage = all
}

// walk reads every record. bbolt's own check does this in its own goroutine, where a
// panic could not be caught.
func walk(tx *bbolt.Tx) error {
	var all func(*bbolt.Bucket) error
	all = func(b *bbolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error {
			if v == nil {
				return all(b.Bucket(k))
			}
			return nil
		})
	}
	return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error { return all(b) })
}

func checkAll(tx *bbolt.Tx) error {
	var all error
	for err := range tx.Check() {
		all = errors.Join(all, err)
	}
	return all
}

// Close closes the store. Nothing may be called on it afterwards.
func (s *Store) Close() error { return s.db.Close() }

// Server is the identity of this data directory, 16 hex digits, made once. It marks
// what belongs to this server in an engine that others also use.
func (s *Store) Server() string { return s.server }

// Dir is the data directory.
func (s *Store) Dir() string { return s.dir }

// Check verifies the consistency of the whole file, and checks every record again,
// for tests and mesh doctor.
func (s *Store) Check() error {
	return s.db.View(func(tx *bbolt.Tx) error {
		if err := checkAll(tx); err != nil {
			return err
		}
		s.found(s.scan(tx))
		return nil
	})
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func noStack(name mesh.StackName) error {
	return mesh.Errorf(mesh.NoStack, "no stack is named %q", mesh.Clip(string(name), 60)).WithHint("list them with: ssh mesh stacks")
}

func stackBucket(tx *bbolt.Tx, name mesh.StackName) (*bbolt.Bucket, error) {
	if name == "" {
		return nil, noStack(name)
	}
	b := tx.Bucket(bucketStacks).Bucket([]byte(name))
	if b == nil {
		return nil, noStack(name)
	}
	return b, complete(name, b)
}

// complete reports whether a stack has all its parts.
func complete(name mesh.StackName, b *bbolt.Bucket) error {
	for _, sub := range [][]byte{bucketConfigs, bucketReleases, bucketDeployments} {
		if b.Bucket(sub) == nil {
			return damagedRecord("the record of "+string(name), fmt.Errorf("its %s are missing", sub))
		}
	}
	return nil
}

func (s *Store) view(ctx context.Context, fn func(*bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.db.View(fn)
}

func (s *Store) update(ctx context.Context, fn func(*bbolt.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return noRoom(s.db.Update(fn))
}

// noRoom changes the error if its cause is a full or read-only disk.
func noRoom(err error) error {
	if errors.Is(err, berrors.ErrDatabaseReadOnly) {
		err = fmt.Errorf("mesh.db was opened read-only: %w", syscall.EROFS)
	}
	told := mesh.TellNoRoom(err)
	var e *mesh.Error
	if told != err && errors.As(told, &e) { //nolint:errorlint // is it the same one?
		e.Text = strings.Replace(e.Text, ": ", ", and nothing has been changed: ", 1)
	}
	return told
}

// Stacks returns all stacks by name, except those that cannot be read: see Damaged.
func (s *Store) Stacks(ctx context.Context) (out []mesh.Stack, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		out = nil
		return tx.Bucket(bucketStacks).ForEachBucket(func(k []byte) error {
			st, err := s.readStack(mesh.StackName(k), tx.Bucket(bucketStacks).Bucket(k))
			if err == nil {
				out = append(out, st)
				return nil
			}
			if errors.Is(err, mesh.Damaged) {
				return nil
			}
			return fmt.Errorf("read stack %s: %w", k, err)
		})
	})
	return out, err
}

// Stack returns one stack, or an error of kind NoStack.
func (s *Store) Stack(ctx context.Context, name mesh.StackName) (st mesh.Stack, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		b, err := stackBucket(tx, name)
		if err != nil {
			return err
		}
		st, err = s.readStack(name, b)
		return err
	})
	return st, err
}

// CreateStack records st as choose returns it; choose gets the existing stacks and
// may refuse. A name or domain that is taken is a Conflict.
func (s *Store) CreateStack(ctx context.Context, st mesh.Stack, choose func(taken []mesh.Stack, st mesh.Stack) (mesh.Stack, error)) (mesh.Stack, error) {
	err := s.update(ctx, func(tx *bbolt.Tx) error {
		root := tx.Bucket(bucketStacks)
		if root.Bucket([]byte(st.Name)) != nil {
			return mesh.Errorf(mesh.Conflict, "a stack named %q already exists", st.Name).WithHint("choose another name, or push to that one")
		}
		var taken []mesh.Stack
		err := root.ForEachBucket(func(k []byte) error {
			o, err := s.readStack(mesh.StackName(k), root.Bucket(k))
			if errors.Is(err, mesh.Damaged) {
				return nil // its domains are in the index
			}
			taken = append(taken, o)
			return err
		})
		if err != nil {
			return err
		}
		if choose != nil {
			if st, err = choose(taken, st); err != nil {
				return err
			}
		}
		b, err := root.CreateBucket([]byte(st.Name))
		if err != nil {
			return err
		}
		if err := forgetDestroyed(tx, st.Name); err != nil {
			return err
		}
		for _, sub := range [][]byte{bucketConfigs, bucketReleases, bucketDeployments} {
			if _, err := b.CreateBucket(sub); err != nil {
				return err
			}
		}
		st.Revision = uint64(tx.ID()) //nolint:gosec // as in readStack
		return s.writeStack(tx, b, mesh.Stack{}, st)
	})
	return st, err
}

// UpdateStack changes a stack with fn, which must do no I/O and may run again. Name,
// Current and LastNumber never change, whatever fn does.
func (s *Store) UpdateStack(ctx context.Context, name mesh.StackName, fn func(*mesh.Stack) error) (st mesh.Stack, err error) {
	err = s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := s.changeable(tx, name)
		if err != nil {
			return err
		}
		old, err := s.readStack(name, b)
		if err != nil {
			return err
		}
		if st, err = apply(old, fn); err != nil {
			return err
		}
		return s.writeStack(tx, b, old, st)
	})
	return st, err
}

func apply(old mesh.Stack, fn func(*mesh.Stack) error) (mesh.Stack, error) {
	st := old
	st.Domains, st.Redirects, st.Endpoints = slices.Clone(old.Domains), maps.Clone(old.Redirects), slices.Clone(old.Endpoints)
	st.Access = old.Access.Clone()
	if err := fn(&st); err != nil {
		return mesh.Stack{}, err
	}
	st.Name, st.Current, st.LastNumber = old.Name, old.Current, old.LastNumber
	return st, nil
}

// DestroyStack removes a stack with its releases, deployments and domains, and the
// recorded output of its deployments.
func (s *Store) DestroyStack(ctx context.Context, name mesh.StackName) error {
	err := s.update(ctx, func(tx *bbolt.Tx) error {
		if _, err := stackBucket(tx, name); err != nil && !errors.Is(err, mesh.Damaged) {
			return err
		}
		// By the index: the record itself may be damaged.
		var hosts [][]byte
		index := tx.Bucket(bucketDomains)
		err := index.ForEach(func(k, v []byte) error {
			if string(v) == string(name) {
				hosts = append(hosts, slices.Clone(k))
			}
			return nil
		})
		for _, h := range hosts {
			err = errors.Join(err, index.Delete(h))
		}
		if err = errors.Join(err, noteDestroyed(tx, name), renameDefault(tx, name, ""), renameDrains(tx, name, ""), renameAlerts(tx, name, "")); err != nil {
			return err
		}
		return tx.Bucket(bucketStacks).DeleteBucket([]byte(name))
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.damage = slices.DeleteFunc(s.damage, func(d mesh.Damage) bool { return d.Stack == name })
	s.mu.Unlock()
	return errors.Join(os.RemoveAll(s.outputDir(name)), s.removeTimes(name))
}

// writeStack stores st over old and updates the index of domains.
func (s *Store) writeStack(tx *bbolt.Tx, b *bbolt.Bucket, old, st mesh.Stack) error {
	domains := tx.Bucket(bucketDomains)
	for _, h := range old.Domains {
		if !slices.Contains(st.Domains, h) {
			if err := domains.Delete([]byte(h)); err != nil {
				return err
			}
		}
	}
	for _, h := range st.Domains {
		if owner := domains.Get([]byte(h)); owner != nil && string(owner) != string(st.Name) {
			return mesh.Errorf(mesh.Conflict, "the domain %s belongs to another stack", h).WithHint("remove it there first: ssh mesh domains:remove -a STACK %s", h)
		}
		if err := domains.Put([]byte(h), []byte(st.Name)); err != nil {
			return err
		}
	}
	ref, err := s.putConfig(b, st.Config)
	if err != nil {
		return err
	}
	var before stackForm
	_ = parse([]byte(old.Name), b.Get(keyRecord), &before) // there is no record yet, or none any more
	f := storeStack(st, ref)
	if f.Access, err = s.storeAccess(st.Access); err != nil {
		return err
	}
	if f.Forge, err = s.storeForge(st.Forge); err != nil {
		return err
	}
	if f.PreviewConfig, err = s.putConfig(b, st.PreviewConfig); err != nil {
		return err
	}
	if err := s.putServices(b, f.Services, func(n mesh.ServiceName) mesh.Config { return st.Services[n].Config }); err != nil {
		return err
	}
	if err := noteGuarded(b, st.Access); err != nil {
		return err
	}
	if err := put(b, keyRecord, f); err != nil || slices.EqualFunc(before.refs(), f.refs(), bytes.Equal) {
		return err
	}
	return tidyConfigs(b, f.refs())
}

func (s *Store) readStack(name mesh.StackName, b *bbolt.Bucket) (mesh.Stack, error) {
	if err := complete(name, b); err != nil {
		return mesh.Stack{}, err
	}
	var f stackForm
	if err := parse([]byte(name), b.Get(keyRecord), &f); err != nil {
		return mesh.Stack{}, damagedRecord("the record of "+string(name), err)
	}
	cfg, err := s.openConfig(b, f.Config)
	if err != nil {
		return mesh.Stack{}, damagedRecord("the config vars of "+string(name), err)
	}
	st := f.stack(cfg)
	err = s.openServices(b, f.Services, func(n mesh.ServiceName, c mesh.Config) {
		set := st.Services[n]
		set.Config = c
		st.Services[n] = set
	})
	if err != nil {
		return mesh.Stack{}, damagedRecord("the config vars of "+string(name), err)
	}
	if st.Forge, err = s.openForge(f.Forge); err != nil {
		return mesh.Stack{}, damagedRecord("the forge of "+string(name), err)
	}
	if len(f.PreviewConfig) > 0 {
		if st.PreviewConfig, err = s.openConfig(b, f.PreviewConfig); err != nil {
			return mesh.Stack{}, damagedRecord("the config vars of previews of "+string(name), err)
		}
	}
	if st.Access, err = s.openAccess(f.Access); err != nil {
		return mesh.Stack{}, damagedRecord("the access rules of "+string(name), err)
	}
	st.Revision = uint64(b.Tx().ID()) //nolint:gosec // bbolt counts transactions up from 0
	return st, nil
}

// Keys returns all keys by name, except damaged ones. Those that are limited to stacks have
// the previews of these.
func (s *Store) Keys(ctx context.Context) (out []mesh.Key, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		out = nil
		err := tx.Bucket(bucketKeys).ForEach(func(k, v []byte) error {
			var f keyForm
			if err := parse(k, v, &f); err != nil {
				return nil //nolint:nilerr // nobody can sign in with it; the doctor reports it
			}
			out = append(out, f.key())
			return nil
		})
		if err != nil || !slices.ContainsFunc(out, func(k mesh.Key) bool { return len(k.Stacks) > 0 }) {
			return err
		}
		for preview, f := range previews(tx) {
			for i, k := range out {
				if slices.Contains(k.Stacks, f.Preview.Of) {
					out[i].Previews = append(out[i].Previews, preview)
				}
			}
		}
		return nil
	})
	return out, err
}

// AddKey records a key. A name or a fingerprint that already exists is a Conflict, but for
// the key of an authority with other principals.
func (s *Store) AddKey(ctx context.Context, k mesh.Key) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketKeys)
		err := b.ForEach(func(key, v []byte) error {
			var f keyForm
			if err := parse(key, v, &f); err != nil {
				return nil //nolint:nilerr // a damaged key is fixed by adding it again
			}
			switch {
			case f.Name == string(k.Name):
				return mesh.Errorf(mesh.Conflict, "a key named %q already exists (%s)", k.Name, f.Fingerprint).WithHint("remove it first: ssh mesh ssh-keys:remove %s", k.Name)
			case f.Token != "" || k.Token != "": // they have no fingerprint
			case f.Fingerprint == k.Fingerprint && f.key().Authority() != k.Authority():
				return mesh.Errorf(mesh.Conflict, "this key already exists, under the name %q: a key either signs in or signs certificates", f.Name).
					WithHint("remove it first: ssh mesh ssh-keys:remove %s", f.Name)
			case f.Fingerprint == k.Fingerprint && k.Authority():
				if i := slices.IndexFunc(k.Principals, func(p string) bool { return slices.Contains(f.Principals, p) }); i >= 0 {
					return mesh.Errorf(mesh.Conflict, "%q already trusts this key for the principal %q", f.Name, k.Principals[i]).
						WithHint("remove it first: ssh mesh ssh-keys:remove %s", f.Name)
				}
			case f.Fingerprint == k.Fingerprint:
				return mesh.Errorf(mesh.Conflict, "this key already exists, under the name %q", f.Name).WithHint("there is nothing to do; to rename it, remove it first: ssh mesh ssh-keys:remove %s", f.Name)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if b.Stats().KeyN >= maxKeys {
			return mesh.Errorf(mesh.Conflict, "there are %d keys, which is the limit", maxKeys).WithHint("remove one that nobody uses: ssh mesh ssh-keys:remove NAME")
		}
		return put(b, []byte(k.Name), storeKey(k))
	})
}

// RemoveKey removes a key.
func (s *Store) RemoveKey(ctx context.Context, name mesh.KeyName) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketKeys)
		if b.Get([]byte(name)) == nil {
			return mesh.Errorf(mesh.NotFound, "no key is named %q", mesh.Clip(string(name), 60)).WithHint("list them with: ssh mesh ssh-keys")
		}
		return b.Delete([]byte(name))
	})
}
