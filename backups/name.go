package backups

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"mesh"
)

// descriptionExt is what the name of a description has behind that of its file.
const descriptionExt = ".json"

// fileRule is what files are called. A name that is being written has a dot in front and a
// number behind.
var (
	fileRule    = regexp.MustCompile(`^((?:volume\.)?[a-z0-9-]+-\d{8}T\d{6}Z)\.([a-z0-9]{1,20}(?:\.[a-z0-9]{1,20})?)\.zst(\.age)?$`)
	partialRule = regexp.MustCompile(`^\.(.+)-\d+$`)
)

func fileName(id, ext string, encrypted bool) string {
	name := id + "." + ext + ".zst"
	if encrypted {
		name += ".age"
	}
	return name
}

// name is what the name of a file says.
type name struct {
	file        string // of the backup, for its description as well
	id          string
	subject     mesh.BackupSubject
	created     time.Time
	encrypted   bool
	description bool
	partial     bool // it is being written, or was
}

// parseName reads the name of a file. ok is false if it does not belong to a backup.
func parseName(s string) (n name, ok bool) {
	if m := partialRule.FindStringSubmatch(s); m != nil {
		n.partial, s = true, m[1]
	}
	s, n.description = strings.CutSuffix(s, descriptionExt)
	m := fileRule.FindStringSubmatch(s)
	if m == nil {
		return name{}, false
	}
	var err error
	n.file, n.id, n.encrypted = s, m[1], m[3] != ""
	n.subject, n.created, err = mesh.ParseBackupID(n.id)
	return n, err == nil
}

// IDOf returns the ID of the backup that has a file with this name. ok is false if it is not
// the name of a backup's file.
func IDOf(file string) (id string, ok bool) {
	n, ok := parseName(file)
	return n.id, ok && !n.partial && !n.description
}

// description is the form of a description. Fields are only ever added.
type description struct {
	Format    int       `json:"format"`
	Subject   string    `json:"subject"`
	Server    string    `json:"server"`
	Kind      string    `json:"kind"`
	Version   string    `json:"version,omitempty"`
	Mesh      string    `json:"mesh"`
	Created   time.Time `json:"created"`
	Size      int64     `json:"size"`
	Sum       string    `json:"sha256"`
	Content   int64     `json:"content_size"`
	PlainSum  string    `json:"content_sha256"`
	Encrypted bool      `json:"encrypted"`
}

func describe(b mesh.Backup) ([]byte, error) {
	data, err := json.MarshalIndent(description{
		Format: b.Format, Subject: string(b.Subject), Server: b.Server, Kind: b.Kind, Version: b.Version, Mesh: b.Mesh, Created: b.Created,
		Size: b.Size, Sum: b.Sum, Content: b.Content, PlainSum: b.PlainSum, Encrypted: b.Encrypted,
	}, "", "  ")
	return append(data, '\n'), err
}

// maxDescription limits what is read of a description, in bytes.
const maxDescription = 64 << 10

// readDescription reads the description of a file. It is Damaged if it says something that
// cannot be.
func readDescription(ctx context.Context, p place, n name) (mesh.Backup, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r, err := p.open(ctx, n.file+descriptionExt)
	if err != nil {
		return mesh.Backup{}, err
	}
	data, err := io.ReadAll(io.LimitReader(r, maxDescription))
	if err = errors.Join(err, r.Close()); err != nil {
		return mesh.Backup{}, fmt.Errorf("read %s: %w", n.file+descriptionExt, err)
	}
	b, err := parseDescription(data)
	if err == nil && (b.Subject != n.subject || !b.Created.Equal(n.created) || b.Encrypted != n.encrypted) {
		err = errors.New("it belongs to another one")
	}
	var told *mesh.Error
	if err != nil && !errors.As(err, &told) {
		err = mesh.Errorf(mesh.Damaged, "its description cannot be used: %s", mesh.Visible(mesh.Clip(err.Error(), 200)))
	}
	b.ID, b.File = n.id, n.file
	return b, err
}

func parseDescription(data []byte) (mesh.Backup, error) {
	var d description
	if err := json.NewDecoder(bytes.NewReader(data)).Decode(&d); err != nil {
		return mesh.Backup{}, err
	}
	b := mesh.Backup{
		Format: d.Format, Subject: mesh.BackupSubject(d.Subject), Server: d.Server, Kind: d.Kind, Version: d.Version, Mesh: d.Mesh, Created: d.Created,
		Size: d.Size, Sum: d.Sum, Content: d.Content, PlainSum: d.PlainSum, Encrypted: d.Encrypted,
	}
	switch {
	case d.Format > mesh.BackupFormat:
		return b, mesh.Errorf(mesh.Damaged, "it was made by a later mesh (%s)", mesh.Visible(mesh.Clip(d.Mesh, 40)))
	case d.Format < 1, d.Kind == "", d.Size < 0, d.Content < 0, !isSum(d.Sum), !isSum(d.PlainSum):
		return b, errors.New("a field is missing")
	}
	return b, nil
}

func isSum(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}

// Files returns the names of the files of a whole backup, in its place.
func Files(b mesh.Backup) []string { return []string{b.File, b.File + descriptionExt} }
