package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
)

var bucketVolumes = []byte("volumes")

// maxVolumes limits the volumes of a server.
const maxVolumes = 100

// volumeForm is the stored form of a volume.
type volumeForm struct {
	V         int             `json:"v"`
	Name      string          `json:"name"`
	Engine    string          `json:"engine"`
	Pending   string          `json:"pending,omitempty"`
	Kept      []keptFilesForm `json:"kept,omitempty"`
	Created   time.Time       `json:"created"`
	CreatedBy string          `json:"created_by,omitempty"`
}

// keptFilesForm has the fields of mesh.KeptFiles.
type keptFilesForm struct {
	Engine string    `json:"engine"`
	Why    string    `json:"why,omitempty"`
	Until  time.Time `json:"until"`
}

func (f *volumeForm) check(key []byte) error {
	var err error
	if f.Engine == "" {
		err = errors.New("it does not name the engine's volume")
	}
	return errors.Join(checkVersion(f.V), checkKey(key, f.Name), err)
}

func readVolume(key, data []byte) (mesh.Volume, error) {
	var f volumeForm
	if err := parse(key, data, &f); err != nil {
		return mesh.Volume{}, err
	}
	v := mesh.Volume{Name: mesh.VolumeName(f.Name), Engine: f.Engine, Pending: f.Pending, Created: f.Created, CreatedBy: mesh.KeyName(f.CreatedBy)}
	for _, k := range f.Kept {
		v.Kept = append(v.Kept, mesh.KeptFiles(k))
	}
	return v, nil
}

func writeVolume(b *bbolt.Bucket, v mesh.Volume) error {
	f := &volumeForm{V: 1, Name: string(v.Name), Engine: v.Engine, Pending: v.Pending, Created: v.Created, CreatedBy: string(v.CreatedBy)}
	for _, k := range v.Kept {
		f.Kept = append(f.Kept, keptFilesForm(k))
	}
	return put(b, []byte(v.Name), f)
}

// Volumes returns all volumes, by name, except damaged records.
func (s *Store) Volumes(ctx context.Context) ([]mesh.Volume, error) {
	return readable(ctx, s, bucketVolumes, readVolume)
}

func noVolume(name mesh.VolumeName) error {
	return mesh.Errorf(mesh.NotFound, "there is no volume %q", mesh.Clip(mesh.Visible(string(name)), 60)).WithHint("list them with: ssh mesh volumes; create one: ssh mesh volumes:create NAME")
}

func volumeOf(tx *bbolt.Tx, name mesh.VolumeName) (mesh.Volume, error) {
	b := tx.Bucket(bucketVolumes)
	if b == nil {
		return mesh.Volume{}, noVolume(name)
	}
	data := b.Get([]byte(name))
	if data == nil {
		return mesh.Volume{}, noVolume(name)
	}
	v, err := readVolume([]byte(name), data)
	if err != nil {
		return v, damagedRecord("the record of the volume "+string(name), err)
	}
	return v, nil
}

// Volume returns one volume, NotFound if there is none, or Damaged.
func (s *Store) Volume(ctx context.Context, name mesh.VolumeName) (v mesh.Volume, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		v, err = volumeOf(tx, name)
		return err
	})
	return v, err
}

// AddVolume records a volume. A name that is taken is a Conflict, as is one too many.
func (s *Store) AddVolume(ctx context.Context, v mesh.Volume) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketVolumes)
		if err != nil {
			return err
		}
		if b.Get([]byte(v.Name)) != nil {
			return mesh.Errorf(mesh.Conflict, "a volume named %q already exists", v.Name).WithHint("choose another name, or attach it: ssh mesh volumes:attach %s -a STACK PATH", v.Name)
		}
		if b.Stats().KeyN >= maxVolumes {
			return mesh.Errorf(mesh.Conflict, "the server has %d volumes, which is the limit", maxVolumes).WithHint("destroy one that nobody needs: ssh mesh volumes:destroy NAME --confirm NAME")
		}
		return writeVolume(b, v)
	})
}

// UpdateVolume changes a volume with fn, which may run more than once, and returns it. fn
// cannot change its name.
func (s *Store) UpdateVolume(ctx context.Context, name mesh.VolumeName, fn func(*mesh.Volume) error) (v mesh.Volume, err error) {
	err = s.update(ctx, func(tx *bbolt.Tx) error {
		if v, err = volumeOf(tx, name); err != nil {
			return err
		}
		v.Kept = slices.Clone(v.Kept)
		if err := fn(&v); err != nil {
			return err
		}
		v.Name = name
		return writeVolume(tx.Bucket(bucketVolumes), v)
	})
	return v, err
}

// RemoveVolume removes the record of a volume.
func (s *Store) RemoveVolume(ctx context.Context, name mesh.VolumeName) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		if _, err := volumeOf(tx, name); err != nil {
			return err
		}
		return tx.Bucket(bucketVolumes).Delete([]byte(name))
	})
}

// volumes notes for a stack the volumes that it cannot run with, because their records
// cannot be read: which files are theirs is not known.
func (s *scan) volumes(tx *bbolt.Tx, k []byte, b *bbolt.Bucket) {
	var f stackForm
	if parse(k, b.Get(keyRecord), &f) != nil {
		return // noted already
	}
	for _, u := range f.Volumes {
		_, err := volumeOf(tx, mesh.VolumeName(u.Volume))
		if errors.Is(err, mesh.NotFound) {
			err = errors.New("it is missing")
		}
		s.note(mesh.StackName(k), true, "the record of the volume "+clip([]byte(u.Volume))+", which is attached to "+clip(k), err)
	}
}
