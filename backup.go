package mesh

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"
)

// BackupSubject is what backups are of: BackupMesh, the name of an add-on, or VolumeSubject.
type BackupSubject string

// BackupMesh is the server itself: its state, repositories, output and certificates.
const BackupMesh BackupSubject = "mesh"

// volumeSubject begins the subjects of volumes. No add-on has a dot in its name.
const volumeSubject = "volume."

// VolumeSubject is the subject of a volume's backups.
func VolumeSubject(name VolumeName) BackupSubject { return volumeSubject + BackupSubject(name) }

// Volume returns the volume that it is the subject of; ok is false for others.
func (s BackupSubject) Volume() (name VolumeName, ok bool) {
	rest, ok := strings.CutPrefix(string(s), volumeSubject)
	return VolumeName(rest), ok
}

// String returns the subject for a sentence: "mesh", "blog-postgres", "the volume uploads".
func (s BackupSubject) String() string {
	if v, ok := s.Volume(); ok {
		return "the volume " + string(v)
	}
	return string(s)
}

// ParseBackupSubject checks s: it is "mesh", or follows the rule for stack names, with
// "volume." in front for a volume.
func ParseBackupSubject(s string) (BackupSubject, error) {
	if s == string(BackupMesh) {
		return BackupMesh, nil
	}
	if !labelRule.MatchString(strings.TrimPrefix(s, volumeSubject)) {
		return "", Errorf(Invalid, "%q is not the name of something that has backups", Clip(s, 60)).WithHint("use mesh, the name of an add-on, or volume.NAME")
	}
	return BackupSubject(s), nil
}

// BackupFormat is the number of the form that backups have. It grows when an earlier mesh
// could not read them any more.
const BackupFormat = 1

// Backup describes one backup: what is written beside it when it is whole.
type Backup struct {
	Format  int
	ID      string // "mesh-20261127T030000Z": the subject and Created
	Subject BackupSubject
	Server  string    // the ID of the server that made it
	Kind    string    // what its content is: "mesh", "postgres", "volume"
	Version string    // of Kind: mesh's own version, or the version of the add-on; may be empty
	Mesh    string    // the version of mesh that made it
	Created time.Time // in UTC, whole seconds
	File    string    // its name in the place: ID.EXT.zst or ID.EXT.zst.age

	Size      int64  // bytes of the stored file
	Sum       string // SHA-256 of the stored file, in hex
	Content   int64  // bytes of the content, before it was compressed
	PlainSum  string // SHA-256 of the content, in hex
	Encrypted bool   // with age

	// Fault says why it is not whole; it is not stored. Of one without a description, only
	// ID, Subject, Created, File, Size and Encrypted are known.
	Fault string
}

// Whole reports whether the backup was finished.
func (b Backup) Whole() bool { return b.Fault == "" }

// BackupContent says what a source is about to write.
type BackupContent struct {
	Kind    string // "mesh", "postgres", "volume"
	Version string // of Kind; may be empty
	Ext     string // the extension of the file, without a dot: "tar", "dump"
}

// BackupPlace is where backups are, with what it needs to sign in.
type BackupPlace struct {
	URL       PlaceURL
	AccessKey Secret // of S3
	SecretKey Secret
	Session   Secret // a temporary sign-in's token; may be empty
}

// BackupPlan is when and where the backups of a subject are made.
type BackupPlan struct {
	Subject    BackupSubject
	Schedule   string      // as package cron reads it
	Place      BackupPlace // without a URL: the folder backups/SUBJECT in the data directory
	Keep       int         // how many whole backups stay; at least 1
	Recipients []string    // of age: whom they are encrypted for; none: they are not encrypted
	Set        time.Time
	SetBy      KeyName

	State BackupState
}

// BackupState is how a plan fares.
type BackupState struct {
	Due     time.Time // the last due time that is settled, or when the plan was set
	Started time.Time // when the run that has not ended began; zero: none runs
	Failed  time.Time // when the last run failed; zero: it succeeded, or there was none
	Failure string    // why; it contains no secret
	Last    *Backup   // the last one that succeeded; nil: none since the plan was set
	Ended   time.Time // when Last was whole; zero: never
}

// BackupRun is the outcome of one run.
type BackupRun struct {
	Backup  Backup
	Place   PlaceURL
	Took    time.Duration
	Removed []string // IDs of older backups that are gone now
	Warning string   // what did not work although the backup is whole; usually empty
}

// BackupCheck is what reading a backup again has shown.
type BackupCheck struct {
	Backup Backup
	Place  PlaceURL
	// Read says how far it was read: the content, or only the stored bytes of an encrypted
	// backup without its identity.
	Read    bool
	Content string // what the content is, for people: "a backup of mesh with 123 files"; may be empty
	Took    time.Duration
}

// PlaceURL names a place for backups: a clean absolute path, or
// s3://BUCKET/PREFIX?endpoint=URL&region=REGION. It contains no secret.
type PlaceURL string

// S3Place is a place in an S3 server.
type S3Place struct {
	Bucket   string
	Prefix   string // without slashes at its ends; may be empty
	Endpoint string // "https://s3.example.com:9000"; empty: Amazon's
	Region   string // empty: the server is asked
}

var (
	bucketRule = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	regionRule = regexp.MustCompile(`^[A-Za-z0-9-]{1,40}$`)
	prefixRule = regexp.MustCompile(`^[A-Za-z0-9!_.*'()/@=+-]{1,500}$`)
)

const placeHint = "use an absolute folder such as /backup/mesh, or s3://BUCKET/PREFIX"

// ParsePlaceURL reads a place: an absolute path, or an s3 URL. endpoint and region, which may
// be empty, win over those in the URL. Errors quote no part of an S3 URL that could be a
// password.
func ParsePlaceURL(s, endpoint, region string) (PlaceURL, error) {
	if !strings.HasPrefix(s, "s3://") {
		switch {
		case endpoint != "" || region != "":
			return "", Errorf(Invalid, "%q is a folder: it has no endpoint and no region", Clip(Visible(s), 100)).WithHint(placeHint)
		case strings.Contains(s, "://"):
			return "", Errorf(Invalid, "%q is not a place for backups", Clip(Visible(s[:strings.Index(s, "://")+3]), 40)+"…").WithHint(placeHint)
		case !path.IsAbs(s):
			return "", Errorf(Invalid, "%q is not an absolute folder", Clip(Visible(s), 100)).WithHint(placeHint)
		case Visible(s) != s || len(s) > 1000:
			return "", Errorf(Invalid, "%q cannot be the name of a folder for backups", Clip(Visible(s), 100)).WithHint(placeHint)
		case path.Clean(s) == "/":
			return "", Errorf(Invalid, "/ itself is no place for backups").WithHint(placeHint)
		}
		return PlaceURL(path.Clean(s)), nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", Errorf(Invalid, "the s3 URL cannot be read").WithHint(placeHint)
	}
	if u.User != nil {
		return "", Errorf(Invalid, "the s3 URL has a user or a password in it").WithHint("use --access-key ID --secret-key -, which reads the secret from standard input")
	}
	p := S3Place{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Endpoint: endpoint, Region: region}
	for key, values := range u.Query() {
		switch {
		case key == "endpoint" && p.Endpoint == "":
			p.Endpoint = values[0]
		case key == "region" && p.Region == "":
			p.Region = values[0]
		case key != "endpoint" && key != "region":
			return "", Errorf(Invalid, "the s3 URL has an option other than endpoint and region").WithHint("s3://BUCKET/PREFIX?endpoint=https://HOST&region=REGION")
		}
	}
	switch {
	case !bucketRule.MatchString(p.Bucket):
		return "", Errorf(Invalid, "%q is not the name of a bucket", Clip(Visible(p.Bucket), 80)).WithHint(placeHint)
	case p.Prefix != "" && (!prefixRule.MatchString(p.Prefix) || path.Clean("/"+p.Prefix) != "/"+p.Prefix):
		return "", Errorf(Invalid, "%q cannot be a prefix in a bucket", Clip(Visible(p.Prefix), 80)).WithHint("use letters, digits, - and _, with / between them")
	case p.Region != "" && !regionRule.MatchString(p.Region):
		return "", Errorf(Invalid, "%q is not a region", Clip(Visible(p.Region), 40)).WithHint("for example eu-central-1")
	}
	if p.Endpoint != "" {
		if p.Endpoint, err = parseEndpointURL(p.Endpoint); err != nil {
			return "", err
		}
	}
	return p.URL(), nil
}

// parseEndpointURL reads the address of an S3 server.
func parseEndpointURL(s string) (string, error) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", Errorf(Invalid, "the endpoint of the S3 server is not a URL like https://s3.example.com").WithHint("--endpoint https://HOST[:PORT], without a path: the bucket belongs to s3://BUCKET/PREFIX")
	}
	return u.Scheme + "://" + u.Host, nil
}

// URL returns the place as a PlaceURL.
func (p S3Place) URL() PlaceURL {
	q := url.Values{}
	if p.Endpoint != "" {
		q.Set("endpoint", p.Endpoint)
	}
	if p.Region != "" {
		q.Set("region", p.Region)
	}
	u := url.URL{Scheme: "s3", Host: p.Bucket, RawQuery: q.Encode()}
	if p.Prefix != "" {
		u.Path = "/" + p.Prefix
	}
	return PlaceURL(u.String())
}

// S3 returns the parts of a place in an S3 server. ok is false for a folder.
func (p PlaceURL) S3() (s S3Place, ok bool) {
	u, err := url.Parse(string(p))
	if err != nil || u.Scheme != "s3" {
		return S3Place{}, false
	}
	q := u.Query()
	return S3Place{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/"), Endpoint: q.Get("endpoint"), Region: q.Get("region")}, true
}

// Item returns the place with an ID behind it, as `mesh restore` takes it.
func (p PlaceURL) Item(id string) string {
	s, ok := p.S3()
	if !ok {
		return path.Join(string(p), id)
	}
	s.Prefix = strings.Trim(s.Prefix+"/"+id, "/")
	return string(s.URL())
}

// SplitItem is the reverse of Item. The last part is not checked.
func (p PlaceURL) SplitItem() (place PlaceURL, id string) {
	s, ok := p.S3()
	if !ok {
		dir, id := path.Split(string(p))
		return PlaceURL(path.Clean(dir)), id
	}
	dir, id := path.Split(s.Prefix)
	s.Prefix = strings.Trim(dir, "/")
	return s.URL(), id
}

const backupTime = "20060102T150405Z"

// BackupID returns the ID of a subject's backup of a time.
func BackupID(subject BackupSubject, created time.Time) string {
	return string(subject) + "-" + created.UTC().Format(backupTime)
}

// ParseBackupID reads an ID.
func ParseBackupID(id string) (subject BackupSubject, created time.Time, err error) {
	bad := func() error {
		return Errorf(Invalid, "%q is not the ID of a backup", Clip(Visible(id), 80)).WithHint("it looks like mesh-20261127T030000Z, or is latest; list them with: ssh mesh backup:list")
	}
	i := strings.LastIndexByte(id, '-')
	if i < 0 {
		return "", time.Time{}, bad()
	}
	if created, err = time.Parse(backupTime, id[i+1:]); err != nil {
		return "", time.Time{}, bad()
	}
	if subject, err = ParseBackupSubject(id[:i]); err != nil || BackupID(subject, created) != id {
		return "", time.Time{}, bad()
	}
	return subject, created, nil
}

// String returns the ID, or what is wrong with it.
func (b Backup) String() string {
	if b.Fault != "" {
		return fmt.Sprintf("%s (%s)", b.ID, b.Fault)
	}
	return b.ID
}

// BackupFault is something about a plan for backups that people must hear about, as long as
// it is so.
type BackupFault struct {
	Subject BackupSubject
	Text    string // a sentence without a full stop
}

// Kept returns where the backups of a plan are: its place, or the folder of its subject below
// folder, which is an absolute path.
func (p BackupPlan) Kept(folder string) BackupPlace {
	place := p.Place
	if place.URL == "" {
		place.URL = PlaceURL(path.Join(folder, string(p.Subject)))
	}
	return place
}
