package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"mesh"
)

// damagedRecord is the error for a caller that needs a damaged record.
func damagedRecord(what string, err error) error {
	return mesh.Errorf(mesh.Damaged, "%s is damaged: %w", what, err).
		WithHint("stop mesh and restore a backup: mesh restore --data NEW-DIR BACKUP.tar (docs/operating.md, Damaged records)")
}

// Damaged returns the records found damaged, at the start or by the last Check. A
// stack with a damaged record cannot be changed. Others can.
func (s *Store) Damaged() []mesh.Damage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.damage)
}

// sound refuses to change a stack with a damaged record.
func (s *Store) sound(name mesh.StackName) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.damage {
		if d.Stack == name {
			return damagedRecord(d.What, errors.New(d.Why))
		}
	}
	return nil
}

// changeable returns the bucket of a stack for a change.
func (s *Store) changeable(tx *bbolt.Tx, name mesh.StackName) (*bbolt.Bucket, error) {
	b, err := stackBucket(tx, name)
	if err == nil {
		err = s.sound(name)
	}
	return b, err
}

// scan is a pass over all records. Those needed to serve a stack are read as in normal
// operation. Of the others that have a checksum, only that is checked: there may be tens
// of thousands.
type scan struct {
	*Store
	found []mesh.Damage
}

// note remembers what is wrong with a record, if anything is. whole: the stack cannot
// run without it.
func (s *scan) note(stack mesh.StackName, whole bool, what string, err error) {
	if err == nil {
		return
	}
	var e *mesh.Error
	if errors.As(err, &e) && e.Kind == mesh.Damaged { // it already names the damaged record
		if cause := errors.Unwrap(e.Err); e.Err != nil && cause == nil {
			err = e.Err
		}
	}
	s.found = append(s.found, mesh.Damage{Stack: stack, What: what, Why: err.Error(), Whole: whole})
}

// scan returns what is wrong with the records.
func (s *Store) scan(tx *bbolt.Tx) []mesh.Damage {
	sc := &scan{Store: s}
	stacks := tx.Bucket(bucketStacks)
	_ = stacks.ForEach(func(k, v []byte) error {
		b := stacks.Bucket(k)
		if b == nil || v != nil {
			sc.note(mesh.StackName(k), true, "the record of "+clip(k), errors.New("it is not a stack"))
			return nil
		}
		sc.stack(k, b)
		sc.volumes(tx, k, b)
		return nil
	})
	sc.others(tx)
	return sc.found
}

// stack reads the records of one stack.
func (s *scan) stack(k []byte, b *bbolt.Bucket) {
	name, shown := mesh.StackName(k), clip(k)
	var f stackForm
	err := parse(k, b.Get(keyRecord), &f)
	s.note(name, true, "the record of "+shown, err)
	configs, releases, deployments := b.Bucket(bucketConfigs), b.Bucket(bucketReleases), b.Bucket(bucketDeployments)
	if configs == nil || releases == nil || deployments == nil {
		s.note(name, true, "the record of "+shown, errors.New("part of it is missing"))
		return
	}
	if err == nil {
		_, err := s.openConfig(b, f.Config)
		if err == nil {
			err = s.openServices(b, f.Services, func(mesh.ServiceName, mesh.Config) {})
		}
		s.note(name, true, "the config vars of "+shown, err)
		_, err = s.openAccess(f.Access)
		s.note(name, true, "the access rules of "+shown, err)
	}
	current := number(uint64(f.Current))
	if err == nil && f.Current > 0 && releases.Get(current) == nil {
		s.note(name, true, fmt.Sprintf("release v%d of %s", f.Current, shown), errors.New("it is missing"))
	}
	_ = b.ForEach(func(sub, v []byte) error {
		if v != nil && !isOneOf(sub, keyRecord, keyGuarded) || v == nil && !isOneOf(sub, bucketConfigs, bucketReleases, bucketDeployments, bucketJobs) {
			s.note(name, false, fmt.Sprintf("the entry %q of %s", mesh.Clip(string(sub), 40), shown), errUnknownEntry)
		}
		return nil
	})
	_ = configs.ForEach(func(ref, _ []byte) error {
		_, err := s.openConfig(b, ref)
		s.note(name, isOneOf(ref, f.refs()...), "a version of the config vars of "+shown, err)
		return nil
	})
	_ = releases.ForEach(func(n, v []byte) error {
		var r releaseForm
		err := parse(n, v, &r)
		if err == nil && slices.ContainsFunc(r.refs(), func(ref []byte) bool { return len(ref) > 0 && configs.Get(ref) == nil }) {
			err = errors.New("its config vars are missing")
		}
		s.note(name, f.Current > 0 && bytes.Equal(n, current), fmt.Sprintf("release v%s of %s", numberText(n), shown), err)
		return nil
	})
	if jobs := b.Bucket(bucketJobs); jobs != nil {
		_ = jobs.ForEach(func(n, v []byte) error {
			_, err := readJobRecord(name, n, v)
			s.note(name, false, jobDamage(name, n), err)
			return nil
		})
	}
	_ = deployments.ForEach(func(n, v []byte) error {
		s.note(name, false, fmt.Sprintf("deployment %s of %s", numberText(n), shown), numbered(n, v))
		return nil
	})
}

// others reads what belongs to no stack.
func (s *scan) others(tx *bbolt.Tx) {
	each := func(bucket []byte, what string, read func(k, v []byte) error) {
		if b := tx.Bucket(bucket); b != nil {
			_ = b.ForEach(func(k, v []byte) error {
				s.note("", false, fmt.Sprintf(what, clip(k)), read(k, v))
				return nil
			})
		}
	}
	_, err := readSettings(tx)
	s.note("", false, "the settings of the server", err)
	_, err = s.readGlobal(tx)
	s.note("", false, "the record of the config vars of all stacks", err)
	_, err = s.readCluster(tx)
	s.note("", false, "the record of the nodes", err)
	_ = tx.Bucket(bucketMeta).ForEach(func(k, _ []byte) error {
		if !isOneOf(k, keyVersion, keyServer, keySeal, keySettings, keyGlobal, keyCluster) {
			s.note("", false, fmt.Sprintf("the entry %q of the server", clip(k)), errUnknownEntry)
		}
		return nil
	})
	each(bucketKeys, "the key %s", func(k, v []byte) error { return parse(k, v, new(keyForm)) })
	each(bucketRegistries, "the login for the registry %s", func(k, v []byte) error {
		_, err := s.readRegistry(k, v)
		return err
	})
	each(bucketDrains, "the drain %s", func(k, v []byte) error {
		_, err := s.readDrain(k, v)
		return err
	})
	each(bucketAddons, "the add-on %s", func(k, v []byte) error {
		_, err := s.readAddon(k, v)
		return err
	})
	each(bucketBackups, "the schedule for backups of %s", func(k, v []byte) error {
		_, err := s.readBackupPlan(k, v)
		return err
	})
	each(bucketVolumes, "the volume %s", func(k, v []byte) error {
		_, err := readVolume(k, v)
		return err
	})
	each(bucketRecipients, "the recipient %s of alerts", func(k, v []byte) error {
		_, err := s.readRecipient(k, v)
		return err
	})
	numbers := func(bucket []byte, what string, f func() form) {
		if b := tx.Bucket(bucket); b != nil {
			_ = b.ForEach(func(k, v []byte) error {
				s.note("", false, what+" "+numberText(k), parse(k, v, f()))
				return nil
			})
		}
	}
	numbers(bucketAlerts, "alert", func() form { return new(alertForm) })
	numbers(bucketOutbox, "the message about an alert", func() form { return new(noticeForm) })
	if b := tx.Bucket(bucketAudit); b != nil {
		_ = b.ForEach(func(k, v []byte) error {
			s.note("", false, "entry "+numberText(k)+" of the audit log", quick(k, v, new(auditForm)))
			return nil
		})
	}
	each(bucketDestroyed, "the note that %s was destroyed", func(k, v []byte) error { return parse(k, v, new(destroyedForm)) })
	_ = tx.ForEach(func(k []byte, _ *bbolt.Bucket) error {
		if !isOneOf(k, slices.Concat(rootBuckets, [][]byte{bucketRegistries, bucketAudit, bucketDestroyed, bucketDrains, bucketAddons, bucketVolumes, bucketAlerts, bucketOutbox, bucketRecipients, bucketBackups})...) {
			s.note("", false, fmt.Sprintf("the table %q", clip(k)), errUnknownEntry)
		}
		return nil
	})
}

var errUnknownEntry = errors.New("unknown to this version of mesh")

func isOneOf(k []byte, buckets ...[]byte) bool {
	return slices.ContainsFunc(buckets, func(b []byte) bool { return bytes.Equal(b, k) })
}

// quick only checks the checksum of a record, if it has one.
func quick(key, data []byte, f form) error {
	if _, summed, err := takeSum(data); summed {
		if err == nil && len(key) != 8 {
			err = errors.New("it has no number")
		}
		return err
	}
	return parse(key, data, f)
}

// numbered is quick, and also checks that a deployment belongs to its key.
func numbered(key, data []byte) error {
	if len(key) == 8 && bytes.HasPrefix(data, fmt.Appendf(nil, `{"v":1,"number":%d,`, fromNumber(key))) {
		return quick(key, data, new(deploymentForm))
	}
	return parse(key, data, new(deploymentForm))
}

func clip(k []byte) string { return mesh.Clip(string(k), 60) }

func numberText(k []byte) string {
	if len(k) != 8 {
		return fmt.Sprintf("%q", mesh.Clip(string(k), 20))
	}
	return fmt.Sprint(fromNumber(k))
}

// withoutSum calls fn with the buckets and keys of the records without a checksum.
func withoutSum(tx *bbolt.Tx, fn func(b *bbolt.Bucket, key, value []byte) error) error {
	each := func(b *bbolt.Bucket) error {
		if b == nil {
			return nil
		}
		type record struct{ k, v []byte }
		var bare []record // a bucket must not change while it is walked
		err := b.ForEach(func(k, v []byte) error {
			if _, summed, _ := takeSum(v); v != nil && !summed && len(v) > 2 && v[0] == '{' {
				bare = append(bare, record{slices.Clone(k), slices.Clone(v)})
			}
			return nil
		})
		for _, r := range bare {
			if err == nil {
				err = fn(b, r.k, r.v)
			}
		}
		return err
	}
	err := errors.Join(each(tx.Bucket(bucketKeys)), each(tx.Bucket(bucketRegistries)), each(tx.Bucket(bucketAudit)))
	stacks := tx.Bucket(bucketStacks)
	return errors.Join(err, stacks.ForEachBucket(func(k []byte) error {
		b := stacks.Bucket(k)
		var err error
		if v := b.Get(keyRecord); v != nil {
			if _, summed, _ := takeSum(v); !summed && len(v) > 2 && v[0] == '{' {
				err = fn(b, keyRecord, slices.Clone(v))
			}
		}
		return errors.Join(err, each(b.Bucket(bucketReleases)), each(b.Bucket(bucketDeployments)))
	}))
}

// mendDomains makes the index of domains match the stacks, from which it is derived.
// Entries of a stack that cannot be read stay: nothing else lists its domains.
func (s *Store) mendDomains(tx *bbolt.Tx, write bool) (wrong int, err error) {
	want, unread := map[string]string{}, map[string]bool{}
	stacks, index := tx.Bucket(bucketStacks), tx.Bucket(bucketDomains)
	err = stacks.ForEachBucket(func(k []byte) error {
		var f stackForm
		if parse(k, stacks.Bucket(k).Get(keyRecord), &f) != nil {
			unread[string(k)] = true
			return nil
		}
		for _, h := range f.Domains {
			want[h] = f.Name
		}
		return nil
	})
	var drop [][]byte
	err = errors.Join(err, index.ForEach(func(k, v []byte) error {
		switch {
		case want[string(k)] == string(v):
			delete(want, string(k))
		case want[string(k)] == "" && len(unread) > 0:
			delete(want, string(k)) // it may belong to them, or to a damaged record of theirs
		case want[string(k)] == "":
			drop = append(drop, slices.Clone(k))
		}
		return nil
	}))
	wrong = len(drop) + len(want)
	if !write {
		return wrong, err
	}
	for _, k := range drop {
		err = errors.Join(err, index.Delete(k))
	}
	for h, name := range want {
		err = errors.Join(err, index.Put([]byte(h), []byte(name)))
	}
	return wrong, err
}

// DomainsOf returns the hosts in the index of a stack whose own record cannot be
// read.
func (s *Store) DomainsOf(name mesh.StackName) (out []mesh.Host, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketDomains).ForEach(func(k, v []byte) error {
			if string(v) == string(name) {
				out = append(out, mesh.Host(k))
			}
			return nil
		})
	})
	return out, err
}
