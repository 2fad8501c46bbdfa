package store

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/bbolt"

	"mesh"
)

// Everything that grows with use is limited, by the transaction that adds to it.
// bbolt reuses the pages that this frees; the file itself does not shrink. See
// Limits in docs/operating.md.
const (
	maxReleases    = 200  // of a stack; a rollback goes back at most six
	maxDeployments = 1000 // of a stack, with their output
	maxKeys        = 1000
	maxRegistries  = 100
)

// trim removes the oldest entries of a numbered bucket until at most limit are left,
// except those that may rejects. It returns the first number that is left.
func trim(b *bbolt.Bucket, limit int, may func(key, value []byte) bool) (first uint64, trimmed bool, err error) {
	var gone [][]byte // a bucket must not change while its cursor is in use
	n, kept := 0, uint64(math.MaxUint64)
	c := b.Cursor()
	for k, _ := c.Last(); k != nil; k, _ = c.Prev() {
		if n++; n <= limit {
			first = fromNumber(k)
		}
	}
	for k, v := c.First(); k != nil && fromNumber(k) < first; k, v = c.Next() {
		if may(k, v) {
			gone = append(gone, slices.Clone(k))
		} else {
			kept = min(kept, fromNumber(k))
		}
	}
	first = min(first, kept)
	for _, k := range gone {
		err = errors.Join(err, b.Delete(k))
	}
	return first, len(gone) > 0, err
}

// tidyConfigs removes the configs that neither the stack, with used, nor a
// release uses. If anything cannot be read, it removes nothing.
func tidyConfigs(b *bbolt.Bucket, used [][]byte) error {
	configs := b.Bucket(bucketConfigs)
	err := b.Bucket(bucketReleases).ForEach(func(k, v []byte) error {
		var f releaseForm
		if err := parse(k, v, &f); err != nil {
			return err
		}
		used = append(used, f.refs()...)
		return nil
	})
	if err != nil {
		return nil //nolint:nilerr // a damaged record is no reason to remove anything
	}
	var gone [][]byte
	err = configs.ForEach(func(ref, _ []byte) error {
		if !slices.ContainsFunc(used, func(u []byte) bool { return bytes.Equal(u, ref) }) {
			gone = append(gone, slices.Clone(ref))
		}
		return nil
	})
	for _, ref := range gone {
		err = errors.Join(err, configs.Delete(ref))
	}
	return err
}

// trimReleases keeps the newest releases of a stack, and its current one.
func trimReleases(b *bbolt.Bucket, current mesh.ReleaseNumber) (trimmed bool, err error) {
	_, trimmed, err = trim(b.Bucket(bucketReleases), maxReleases, func(k, _ []byte) bool { return fromNumber(k) != uint64(current) }) //nolint:gosec // not negative
	return trimmed, err
}

// trimDeployments keeps the newest deployments of a stack, and those that have not
// ended.
func trimDeployments(b *bbolt.Bucket) (first uint64, trimmed bool, err error) {
	return trim(b.Bucket(bucketDeployments), maxDeployments, func(k, v []byte) bool {
		var f deploymentForm
		return parse(k, v, &f) == nil && mesh.DeploymentStatus(f.Status).Final()
	})
}

// trimOutput removes the output of deployments before the first that is kept,
// including leftovers of a killed server.
func (s *Store) trimOutput(stack mesh.StackName, first uint64) error {
	files, err := os.ReadDir(s.outputDir(stack))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, f := range files {
		var n uint64
		if _, serr := fmt.Sscanf(f.Name(), "deployment-%d.log", &n); serr == nil && n < first {
			err = errors.Join(err, os.Remove(filepath.Join(s.outputDir(stack), f.Name())))
		}
	}
	return err
}
