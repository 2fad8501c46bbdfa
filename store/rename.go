package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"mesh"
)

// RenameStack renames the stack of d and makes d live in one transaction, with its
// releases, deployments, domains and previews, and the keys that are limited to it. change is
// applied as in Commit. The stack's Was is its old name until FinishRename. A name
// that is taken is a Conflict.
func (s *Store) RenameStack(ctx context.Context, d mesh.Deployment, to mesh.StackName, change func(*mesh.Stack) error) (st mesh.Stack, err error) {
	if _, err := s.Stack(ctx, to); errors.Is(err, mesh.NoStack) {
		// Leftovers of an incompletely destroyed stack of that name.
		if err := errors.Join(os.RemoveAll(s.outputDir(to)), s.removeTimes(to)); err != nil {
			return st, err
		}
	}
	err = s.update(ctx, func(tx *bbolt.Tx) error {
		from, err := s.changeable(tx, d.Stack)
		if err != nil {
			return err
		}
		old, err := s.readStack(d.Stack, from)
		if err != nil {
			return err
		}
		root := tx.Bucket(bucketStacks)
		if root.Bucket([]byte(to)) != nil {
			return mesh.Errorf(mesh.Conflict, "a stack named %q already exists", to).WithHint("choose another name")
		}
		if st, err = apply(old, change); err != nil {
			return err
		}
		st.Name, st.Was = to, old.Name
		b, err := root.CreateBucket([]byte(to))
		if err != nil {
			return err
		}
		if err := copyBucket(from, b); err != nil {
			return err
		}
		if err := renameImages(b.Bucket(bucketReleases), old.Name, to); err != nil {
			return err
		}
		for _, h := range old.Domains {
			if err := tx.Bucket(bucketDomains).Delete([]byte(h)); err != nil {
				return err
			}
		}
		if err := root.DeleteBucket([]byte(old.Name)); err != nil {
			return err
		}
		// Everything under the old name is removed once the stack no longer needs
		// it.
		if err := errors.Join(forgetDestroyed(tx, to), noteDestroyed(tx, old.Name)); err != nil {
			return err
		}
		if err := s.writeStack(tx, b, mesh.Stack{}, st); err != nil {
			return err
		}
		d.Stack, d.Status = to, mesh.StatusLive
		if err := updateDeployment(b, d); err != nil {
			return err
		}
		if err := errors.Join(renameInLinks(root, old.Name, to), renameDefault(tx, old.Name, to), renameDrains(tx, old.Name, to), renameAlerts(tx, old.Name, to), renameInPreviews(tx, old.Name, to)); err != nil {
			return err
		}
		return renameInKeys(tx.Bucket(bucketKeys), old.Name, to)
	})
	return st, err
}

// renameImages changes the names of a stack's images to the new stack name.
func renameImages(releases *bbolt.Bucket, from, to mesh.StackName) error {
	changed := map[string]*releaseForm{} // a bucket must not change while it is walked
	err := releases.ForEach(func(k, v []byte) error {
		var f releaseForm
		if err := parse(k, v, &f); err != nil {
			return err
		}
		tag, ours := strings.CutPrefix(f.Image.Ref, "mesh/"+string(from)+":")
		if !ours {
			return nil
		}
		f.Image.Ref = "mesh/" + string(to) + ":" + tag
		changed[string(k)] = &f
		return nil
	})
	for k, f := range changed {
		err = errors.Join(err, put(releases, []byte(k), f))
	}
	return err
}

// renameInLinks makes the links to a renamed stack lead to its new name. What they are
// called does not change.
func renameInLinks(stacks *bbolt.Bucket, from, to mesh.StackName) error {
	changed := map[string]*stackForm{} // a bucket must not change while it is walked
	err := stacks.ForEachBucket(func(k []byte) error {
		data := stacks.Bucket(k).Get(keyRecord)
		var f stackForm
		if data == nil || parse(k, data, &f) != nil {
			return nil // it cannot be read, and is left as it is
		}
		for i, l := range f.Links {
			if l.To == string(from) {
				f.Links[i].To, changed[string(k)] = string(to), &f
			}
		}
		return nil
	})
	for k, f := range changed {
		err = errors.Join(err, put(stacks.Bucket([]byte(k)), keyRecord, f))
	}
	return err
}

func renameInKeys(keys *bbolt.Bucket, from, to mesh.StackName) error {
	var limited []*keyForm
	err := keys.ForEach(func(k, v []byte) error {
		var f keyForm
		if err := parse(k, v, &f); err != nil {
			return nil //nolint:nilerr // nobody can sign in with it
		}
		if i := slices.Index(f.Stacks, string(from)); i >= 0 {
			f.Stacks[i] = string(to)
			limited = append(limited, &f)
		}
		return nil
	})
	for _, f := range limited {
		err = errors.Join(err, put(keys, []byte(f.Name), f))
	}
	return err
}

func copyBucket(from, to *bbolt.Bucket) error {
	return from.ForEach(func(k, v []byte) error {
		if v != nil {
			return to.Put(k, v)
		}
		sub, err := to.CreateBucket(k)
		if err != nil {
			return err
		}
		return copyBucket(from.Bucket(k), sub)
	})
}

// moveOutput moves a folder of recorded output. It keeps what already exists under
// the new name: a deployment may have begun there before this was finished.
func moveOutput(from, to string) error {
	files, err := os.ReadDir(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(to, f.Name())
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		if err := os.Rename(filepath.Join(from, f.Name()), path); err != nil {
			return err
		}
	}
	return os.RemoveAll(from)
}

// FinishRename moves the recorded output of a renamed stack's deployments to its new
// name, and drops the old name. It may be called again.
func (s *Store) FinishRename(ctx context.Context, name mesh.StackName) (mesh.Stack, error) {
	st, err := s.Stack(ctx, name)
	if err != nil || st.Was == "" {
		return st, err
	}
	if err := moveOutput(s.outputDir(st.Was), s.outputDir(name)); err != nil {
		return st, err
	}
	if err := s.moveTimes(st.Was, name); err != nil {
		return st, err
	}
	return s.UpdateStack(ctx, name, func(st *mesh.Stack) error { st.Was = ""; return nil })
}
