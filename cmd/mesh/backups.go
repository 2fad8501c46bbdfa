package main

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mesh"
	"mesh/backups"
	"mesh/cron"
	"mesh/deploy"
)

// backupOptions are how the deployer makes backups.
func (c *control) backupOptions() deploy.BackupOptions {
	data := c.settings.Data
	if abs, err := filepath.Abs(data); err == nil {
		data = abs
	}
	return deploy.BackupOptions{
		Places:    backups.New(backups.Options{Data: data, Temp: data, Logger: c.log, Now: c.now}),
		Sources:   []deploy.BackupSource{serverSource{c}, volumeSource{c}, addonSource{c}},
		Schedules: schedules{},
		Folder:    filepath.Join(data, backups.Folder),
		Server:    c.store.Server(), Version: c.version,
		OnPlans: func() { c.schedules.Changed() }, // they exist when the deployer is used
		OnEnded: func() { c.watcher.BackupsChanged() },
	}
}

// now is the clock of schedules and deployments.
func (c *control) now() time.Time { return time.Now().Add(c.ahead) }

// serverSource backs up the server itself.
type serverSource struct{ *control }

func (s serverSource) Content(_ context.Context, subject mesh.BackupSubject) (mesh.BackupContent, error) {
	if subject != mesh.BackupMesh {
		return mesh.BackupContent{}, mesh.Errorf(mesh.NotFound, "%q is not the server", string(subject))
	}
	return mesh.BackupContent{Kind: "mesh", Version: s.version, Ext: "tar"}, nil
}

func (s serverSource) Dump(ctx context.Context, _ mesh.BackupSubject, w io.Writer) error {
	_, err := s.self.Backup(ctx, w)
	return err
}

func (s serverSource) Inspect(_ context.Context, _ mesh.Backup, r io.Reader) (string, error) {
	files, _, err := verify(r)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("a backup of mesh with %s", counted(files, "file")), nil
}

// volumeSource backs up the files of volumes.
type volumeSource struct{ *control }

func (s volumeSource) Content(ctx context.Context, subject mesh.BackupSubject) (mesh.BackupContent, error) {
	_, err := s.engineVolume(ctx, subject)
	return mesh.BackupContent{Kind: deploy.BackupOfVolume, Ext: "tar"}, err
}

func (s volumeSource) engineVolume(ctx context.Context, subject mesh.BackupSubject) (string, error) {
	name, ok := subject.Volume()
	if !ok {
		return "", mesh.Errorf(mesh.NotFound, "%s is not a volume", subject)
	}
	v, err := s.deployer.WholeVolume(ctx, name)
	return v.Engine, err
}

func (s volumeSource) Dump(ctx context.Context, subject mesh.BackupSubject, w io.Writer) error {
	engine, err := s.engineVolume(ctx, subject)
	if err != nil {
		return err
	}
	if err := s.volumes.Export(ctx, engine, w); err != nil {
		return err
	}
	_, err = s.engineVolume(ctx, subject) // it may have been lost, and be restored, since
	return err
}

func (s volumeSource) Inspect(_ context.Context, _ mesh.Backup, r io.Reader) (string, error) {
	entries := 0
	for t := tar.NewReader(r); ; entries++ {
		if _, err := t.Next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", fmt.Errorf("read the tar: %w", err)
		}
	}
	_, err := io.Copy(io.Discard, r)
	return fmt.Sprintf("%d files and folders of a volume", entries), err
}

// schedules reads schedules for the deployer.
type schedules struct{}

func (schedules) Check(text string) error {
	_, err := cron.Parse(text)
	return err
}

func (schedules) Next(text string, t time.Time) time.Time {
	s, err := cron.Parse(text)
	if err != nil {
		return time.Time{}
	}
	return s.Next(t)
}

func (schedules) Interval(text string, t time.Time) time.Duration {
	s, err := cron.Parse(text)
	if err != nil {
		return 0
	}
	return s.Interval(t)
}

// backupFindings returns what the doctor says about backups of the server.
func (c *control) backupFindings(ctx context.Context) []mesh.Finding {
	p, planned, err := c.deployer.BackupPlanOf(ctx, mesh.BackupMesh)
	if err != nil {
		return []mesh.Finding{{What: fmt.Sprintf("the schedules for backups cannot be read: %v", err), Mend: "see the server's log"}}
	}
	if !planned {
		return []mesh.Finding{{What: "no backups are scheduled", Mend: `ssh mesh backup:schedule "0 3 * * *" --to PLACE`}}
	}
	faults, err := c.deployer.BackupFaults(ctx)
	if err != nil {
		return []mesh.Finding{{What: fmt.Sprintf("the schedules for backups cannot be read: %v", err), Mend: "see the server's log"}}
	}
	for _, f := range faults {
		if f.Subject == mesh.BackupMesh {
			return []mesh.Finding{{What: f.Text, Mend: "fix the cause, then: ssh mesh backup:run"}}
		}
	}
	what := fmt.Sprintf("backups are scheduled, the next one at %s", c.deployer.NextBackup(p).UTC().Format(time.RFC3339))
	if l := p.State.Last; l != nil {
		what += "; the last one is " + l.ID
	}
	return []mesh.Finding{{OK: true, What: what}}
}

// inPlace splits PLACE/ID. ok is false for what is a plain file.
func inPlace(arg string) (place, id string, ok bool) {
	if strings.HasPrefix(arg, "s3://") {
		return arg, "", true
	}
	dir, last := filepath.Split(filepath.Clean(arg))
	if id, is := backups.IDOf(last); is {
		return cmp.Or(dir, "."), id, true
	}
	if _, err := os.Stat(arg); err == nil || arg == "-" {
		return "", "", false
	}
	if _, _, err := mesh.ParseBackupID(last); err == nil || last == backups.Latest {
		return cmp.Or(dir, "."), last, true
	}
	return "", "", false
}

// restorePlaced restores a backup of a server from a place.
func restorePlaced(arg, id, identity, data string) (files int, warnings []string, err error) {
	ctx := context.Background()
	var at mesh.BackupPlace
	if strings.HasPrefix(arg, "s3://") {
		item, err := mesh.ParsePlaceURL(arg, "", "")
		if err == nil { // what is in the URL wins
			s, _ := item.S3()
			item, err = mesh.ParsePlaceURL(arg, missing(s.Endpoint, os.Getenv("AWS_ENDPOINT_URL")), missing(s.Region, cmp.Or(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"))))
		}
		if err != nil {
			return 0, nil, err
		}
		at.URL, id = item.SplitItem()
		if name, is := backups.IDOf(id); is {
			id = name
		}
		at.AccessKey, at.SecretKey = mesh.NewSecret(os.Getenv("AWS_ACCESS_KEY_ID")), mesh.NewSecret(os.Getenv("AWS_SECRET_ACCESS_KEY"))
		at.Session = mesh.NewSecret(os.Getenv("AWS_SESSION_TOKEN"))
	} else {
		abs, err := filepath.Abs(arg)
		if err != nil {
			return 0, nil, err
		}
		at.URL = mesh.PlaceURL(abs)
	}
	var key mesh.Secret
	if identity != "" {
		text, err := os.ReadFile(identity)
		if err != nil {
			return 0, nil, mesh.Errorf(mesh.NotFound, "the identity cannot be read: %w", err)
		}
		key = mesh.NewSecret(string(text))
	}
	b := backups.New(backups.Options{})
	about, err := b.Find(ctx, at, mesh.BackupMesh, "", id)
	if err != nil {
		return 0, nil, unlisted(err)
	}
	if about.Subject != mesh.BackupMesh || about.Kind != "mesh" {
		return 0, nil, mesh.Errorf(mesh.Invalid, "%s is a backup of %s, not of a server", about.ID, about.Kind)
	}
	return restoreFrom(func() (io.ReadCloser, error) {
		r, _, err := b.Open(ctx, at, mesh.BackupMesh, "", about.ID, key)
		return r, err
	}, data)
}

// missing returns b if a is empty, and nothing otherwise.
func missing(a, b string) string {
	if a != "" {
		return ""
	}
	return b
}

// unlisted drops hints that need a server: there is none yet.
func unlisted(err error) error {
	var e *mesh.Error
	if errors.As(err, &e) && strings.Contains(e.Hint, "ssh mesh") {
		plain := *e
		plain.Hint = "list what is there; a backup is whole when the file ID….json is beside it"
		return &plain
	}
	return err
}
