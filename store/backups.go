package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
)

var bucketBackups = []byte("backups")

const maxBackupPlans = 1000

// backupForm is the stored form of a plan for backups, with how it fares. The credentials are
// sealed, with the subject as their context.
type backupForm struct {
	V          int       `json:"v"`
	Subject    string    `json:"subject"`
	Schedule   string    `json:"schedule"`
	Place      string    `json:"place,omitempty"`
	Sealed     []byte    `json:"sealed,omitempty"`
	Keep       int       `json:"keep"`
	Recipients []string  `json:"recipients,omitempty"`
	Set        time.Time `json:"set"`
	SetBy      string    `json:"set_by,omitempty"`

	Due     time.Time       `json:"due"`
	Started time.Time       `json:"started,omitzero"`
	Failed  time.Time       `json:"failed,omitzero"`
	Failure string          `json:"failure,omitempty"`
	Last    *lastBackupForm `json:"last,omitempty"`
	Ended   time.Time       `json:"ended,omitzero"`
}

// lastBackupForm has the fields of mesh.Backup, but for those that follow from others.
type lastBackupForm struct {
	Format    int       `json:"format"`
	ID        string    `json:"id"`
	Server    string    `json:"server"`
	Kind      string    `json:"kind"`
	Version   string    `json:"version,omitempty"`
	Mesh      string    `json:"mesh"`
	Created   time.Time `json:"created"`
	File      string    `json:"file"`
	Size      int64     `json:"size"`
	Sum       string    `json:"sum"`
	Content   int64     `json:"content"`
	PlainSum  string    `json:"plain_sum"`
	Encrypted bool      `json:"encrypted,omitempty"`
}

func (f *backupForm) check(key []byte) error {
	_, err := mesh.ParseBackupSubject(f.Subject)
	if err == nil && f.Keep < 1 {
		err = errors.New("it keeps no backups")
	}
	return errors.Join(checkVersion(f.V), checkKey(key, f.Subject), err)
}

// backupSecrets are what is sealed of a plan.
type backupSecrets struct {
	Access []byte `json:"access"`
	Secret []byte `json:"secret"`
}

func backupContext(subject string) []byte { return []byte("backup " + subject) }

func (s *Store) readBackupPlan(key, data []byte) (mesh.BackupPlan, error) {
	var f backupForm
	if err := parse(key, data, &f); err != nil {
		return mesh.BackupPlan{}, err
	}
	p := mesh.BackupPlan{
		Subject: mesh.BackupSubject(f.Subject), Schedule: f.Schedule, Place: mesh.BackupPlace{URL: mesh.PlaceURL(f.Place)}, Keep: f.Keep,
		Recipients: f.Recipients, Set: f.Set, SetBy: mesh.KeyName(f.SetBy),
		State: mesh.BackupState{Due: f.Due, Started: f.Started, Failed: f.Failed, Failure: f.Failure, Ended: f.Ended},
	}
	if l := f.Last; l != nil {
		p.State.Last = &mesh.Backup{
			Format: l.Format, ID: l.ID, Subject: p.Subject, Server: l.Server, Kind: l.Kind, Version: l.Version, Mesh: l.Mesh, Created: l.Created,
			File: l.File, Size: l.Size, Sum: l.Sum, Content: l.Content, PlainSum: l.PlainSum, Encrypted: l.Encrypted,
		}
	}
	if len(f.Sealed) == 0 {
		return p, nil
	}
	plain, err := s.seal.open(f.Sealed, backupContext(f.Subject), "its credentials", "are missing")
	if err != nil {
		return mesh.BackupPlan{}, err
	}
	var secret backupSecrets
	if err := json.Unmarshal(plain, &secret); err != nil {
		return mesh.BackupPlan{}, errors.New("its credentials cannot be read")
	}
	p.Place.AccessKey, p.Place.SecretKey = mesh.NewSecret(string(secret.Access)), mesh.NewSecret(string(secret.Secret))
	return p, nil
}

func (s *Store) backupForm(p mesh.BackupPlan) (*backupForm, error) {
	f := &backupForm{
		V: 1, Subject: string(p.Subject), Schedule: p.Schedule, Place: string(p.Place.URL), Keep: p.Keep, Recipients: p.Recipients, Set: p.Set, SetBy: string(p.SetBy),
		Due: p.State.Due, Started: p.State.Started, Failed: p.State.Failed, Failure: p.State.Failure, Ended: p.State.Ended,
	}
	if l := p.State.Last; l != nil {
		f.Last = &lastBackupForm{
			Format: l.Format, ID: l.ID, Server: l.Server, Kind: l.Kind, Version: l.Version, Mesh: l.Mesh, Created: l.Created,
			File: l.File, Size: l.Size, Sum: l.Sum, Content: l.Content, PlainSum: l.PlainSum, Encrypted: l.Encrypted,
		}
	}
	if cmp.Or(p.Place.AccessKey.Reveal(), p.Place.SecretKey.Reveal()) == "" {
		return f, nil
	}
	plain, err := json.Marshal(backupSecrets{Access: []byte(p.Place.AccessKey.Reveal()), Secret: []byte(p.Place.SecretKey.Reveal())})
	if err != nil {
		return nil, err
	}
	f.Sealed, err = s.seal.close(plain, backupContext(f.Subject))
	return f, err
}

// BackupPlans returns all plans for backups, by subject, except damaged records.
func (s *Store) BackupPlans(ctx context.Context) ([]mesh.BackupPlan, error) {
	return readable(ctx, s, bucketBackups, s.readBackupPlan)
}

// UpdateBackupPlan changes the plan of a subject with fn, and returns it. fn does no I/O, and
// may run more than once. known is false if there is no plan, or its record is damaged: p
// then has only its subject.
func (s *Store) UpdateBackupPlan(ctx context.Context, subject mesh.BackupSubject, fn func(p *mesh.BackupPlan, known bool) error) (p mesh.BackupPlan, err error) {
	err = s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketBackups)
		if err != nil {
			return err
		}
		key := []byte(subject)
		known := false
		if data := b.Get(key); data != nil {
			p, err = s.readBackupPlan(key, data)
			known = err == nil
		} else if b.Stats().KeyN >= maxBackupPlans {
			return mesh.Errorf(mesh.Conflict, "the server has %d schedules for backups, which is the limit", maxBackupPlans).WithHint("remove one that nobody needs")
		}
		if !known {
			p = mesh.BackupPlan{Subject: subject}
		}
		if err := fn(&p, known); err != nil {
			return err
		}
		f, err := s.backupForm(p)
		if err != nil {
			return err
		}
		return put(b, key, f)
	})
	return p, err
}

// RemoveBackupPlan removes the plan of a subject. A damaged record can be removed as well. If
// there is none, it returns an error of kind NotFound.
func (s *Store) RemoveBackupPlan(ctx context.Context, subject mesh.BackupSubject) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketBackups)
		if b == nil || b.Get([]byte(subject)) == nil {
			return mesh.Errorf(mesh.NotFound, "%s has no schedule for backups", subject)
		}
		return b.Delete([]byte(subject))
	})
}
