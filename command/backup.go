package command

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"mesh"
)

// Backups makes, lists and reads backups in places. Its errors contain no secret.
type Backups interface {
	// BackupPlanOf returns the plan of a subject; ok is false if there is none. NextBackup
	// returns when a plan is due, or zero, and KeptAt where its backups are.
	BackupPlanOf(ctx context.Context, subject mesh.BackupSubject) (p mesh.BackupPlan, ok bool, err error)
	NextBackup(p mesh.BackupPlan) time.Time
	KeptAt(p mesh.BackupPlan) mesh.BackupPlace
	BackupRuns(subject mesh.BackupSubject) (since time.Time, runs bool)
	// ScheduleBackup replaces the plan of p.Subject, and checks that it works.
	ScheduleBackup(ctx context.Context, p mesh.BackupPlan) (mesh.BackupPlan, error)
	// UnscheduleBackup is NotFound if there is no plan.
	UnscheduleBackup(ctx context.Context, subject mesh.BackupSubject, by mesh.KeyName) error
	// RunBackup makes a backup now: of a plan if no place is given.
	RunBackup(ctx context.Context, subject mesh.BackupSubject, to *mesh.BackupPlace, recipients []string) (mesh.BackupRun, error)
	// ListBackups returns the newest first.
	ListBackups(ctx context.Context, at mesh.BackupPlace) ([]mesh.Backup, error)
	RemoveBackup(ctx context.Context, at mesh.BackupPlace, made mesh.Backup) error
	// VerifyBackup takes "latest" for an ID.
	VerifyBackup(ctx context.Context, at mesh.BackupPlace, subject mesh.BackupSubject, id string, identity mesh.Secret) (mesh.BackupCheck, error)
}

const defaultKeep = 7

// maxSchedule is how many words a schedule may have: ssh takes quotes away.
const maxSchedule = 10

// nothingKept keeps no argument for the audit log: commands add what they have understood.
func nothingKept(*call) []string { return nil }

var backupCommands = []*definition{
	{
		topic: "backup", args: "> FILE.tar", short: "Print a backup of the running server", access: mesh.AccessAdmin, exact: true, run: runBackup,
		flags: func(f *pflag.FlagSet) {
			f.Bool("addons", false, "with a dump of each add-on, made now")
			f.Bool("volumes", false, "with the files of each volume, as they are now")
		},
		long: "The tar contains the state, its key, the host key, the repositories, the recorded output and the\n" +
			"certificates: keep it as secret as the server. Images and volumes belong to the engine and are not in\n" +
			"it; with --addons, a dump of each add-on is, and with --volumes, the files of each volume are. While the server\n" +
			"is stopped, `mesh restore FILE.tar` turns it into a data directory.",
	},
	{
		topic: "backup", verb: "schedule", args: "[SCHEDULE]", short: "Back the server up on a schedule; alone, show it",
		long: "SCHEDULE has five fields, minute hour day month weekday, or is @daily, @weekly and the like. TZ=Europe/Berlin\n" +
			"in front names a time zone; otherwise it is that of the server. PLACE is an absolute folder of the server or\n" +
			"s3://BUCKET/PREFIX. Options that are left out stay as they were. The secret key is stored encrypted, and no command\n" +
			"prints it. A backup that was missed because mesh was down is made up, once, if it is less than 12 hours late.",
		access: mesh.AccessAdmin, max: maxSchedule, json: true, changes: true, keeps: nothingKept, run: runBackupSchedule,
		flags: func(f *pflag.FlagSet) {
			placeFlags(f, "where backups are kept")
			f.Int("keep", defaultKeep, "how many `BACKUPS` to keep; older ones are removed")
			encryptFlag(f)
		},
	},
	{
		topic: "backup", verb: "unschedule", short: "Make no more backups on a schedule", access: mesh.AccessAdmin, changes: true, run: runBackupUnschedule,
		long: "Backups that were made stay where they are.",
	},
	{
		topic: "backup", verb: "run", short: "Make a backup now", access: mesh.AccessAdmin, json: true, keeps: nothingKept, run: runBackupRun,
		long: "Without --to it goes where the schedule says, and counts as one of its backups. It ends with the connection.",
		flags: func(f *pflag.FlagSet) {
			placeFlags(f, "another place")
			encryptFlag(f)
		},
	},
	{
		topic: "backup", verb: "list", short: "List the backups in a place", access: mesh.AccessAdmin, quiet: true, json: true, run: runBackupList,
		long:  "A backup that is not whole was cut off, or lacks one of its two files. It is never restored.",
		flags: func(f *pflag.FlagSet) { placeFlags(f, "a place other than that of the schedule") },
	},
	{
		topic: "standby", verb: "stream", short: "Send a running copy of the server; `mesh standby` uses it", access: mesh.AccessAdmin, exact: true, prints: true, run: runStandbyStream,
		long: "On another machine, mesh standby --from ssh://mesh@HOST:PORT keeps a copy a few seconds behind, which contains every\n" +
			"secret of this server. See docs/operating.md, Standby.",
	},
	{
		topic: "backup", verb: "verify", args: "[ID|latest]", short: "Read a backup again, and check every byte", access: mesh.AccessAdmin, max: 1, json: true, run: runBackupVerify,
		long: "Compares the file with its checksums, and reads its content as mesh restore does. The content of an encrypted\n" +
			"backup needs the key that decrypts it, which is not stored: --identity - reads it from standard input.",
		flags: func(f *pflag.FlagSet) {
			placeFlags(f, "a place other than that of the schedule")
			f.String("identity", "", "`-`: read an age or SSH key that decrypts it from standard input")
		},
	},
}

// runStandbyStream serves mesh standby on another machine.
func runStandbyStream(ctx context.Context, c *call) error {
	if c.TTY {
		return mesh.Errorf(mesh.Invalid, "a copy of the server cannot be printed on a terminal").WithHint("on the other machine: mesh standby --from ssh://mesh@HOST:PORT")
	}
	return c.Server.Mirror(ctx, c.Stdin, c.Stdout)
}

func placeFlags(f *pflag.FlagSet, to string) {
	f.String("to", "", to+": a folder or s3://BUCKET/PREFIX, as `PLACE`")
	f.String("access-key", "", "the access key of S3, an `ID`")
	f.String("secret-key", "", "the `SECRET` key of S3; with - it is read from standard input, and no shell history keeps it")
	f.String("endpoint", "", "the `URL` of an S3 server other than Amazon's")
	f.String("region", "", "the `REGION` of the bucket; if left out, the server is asked")
}

func encryptFlag(f *pflag.FlagSet) {
	f.StringArray("encrypt", nil, "encrypt with age for a `KEY`, age1… or a public SSH key; may be repeated; none: do not encrypt")
}

func runBackup(ctx context.Context, c *call) error {
	if c.TTY {
		return mesh.Errorf(mesh.Invalid, "a backup cannot be printed on a terminal").WithHint("write it to a file: ssh mesh backup > mesh.tar")
	}
	var dumps []mesh.Backup
	defer func() { // they were made for this one, and would push scheduled ones out
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		for _, b := range dumps {
			if err := c.Backups.RemoveBackup(rctx, c.Backups.KeptAt(mesh.BackupPlan{Subject: b.Subject}), b); err != nil {
				c.tell("the dump %s stays on the server: %v\n", b.ID, err)
			}
		}
	}()
	if with, _ := c.flags.GetBool("addons"); with {
		var err error
		if dumps, err = c.dumpAddons(ctx); err != nil {
			return err
		}
	}
	if with, _ := c.flags.GetBool("volumes"); with {
		more, err := c.dumpVolumes(ctx)
		dumps = append(dumps, more...)
		if err != nil {
			return err
		}
	}
	n, err := c.Server.Backup(ctx, c.Stdout, dumps...)
	if err != nil {
		return err
	}
	c.tell("%d files\n", n)
	return nil
}

// dumpAddons makes a backup of each add-on that has one, on the server, and returns them.
func (c *call) dumpAddons(ctx context.Context) (made []mesh.Backup, err error) {
	all, err := c.AddonList.Addons(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if _, _, err := c.AddonKinds.Form(a); err != nil {
			c.tell("%s is left out: it has no data that lasts\n", a.Name)
			continue
		}
		b, err := c.dump(ctx, mesh.BackupSubject(a.Name))
		if err != nil {
			return made, err
		}
		made = append(made, b)
	}
	return made, nil
}

// dumpVolumes is dumpAddons for volumes.
func (c *call) dumpVolumes(ctx context.Context) (made []mesh.Backup, err error) {
	all, err := c.VolumeList.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range all {
		b, err := c.dump(ctx, mesh.VolumeSubject(v.Name))
		if err != nil {
			return made, err
		}
		made = append(made, b)
	}
	return made, nil
}

// dump makes a backup of a subject on the server.
func (c *call) dump(ctx context.Context, of mesh.BackupSubject) (mesh.Backup, error) {
	to := c.Backups.KeptAt(mesh.BackupPlan{Subject: of})
	run, err := c.Backups.RunBackup(ctx, of, &to, nil)
	if err == nil {
		c.tell("dumped %s: %s\n", of.String(), size(run.Backup.Size))
	}
	return run.Backup, err
}

// backupOf is what a command on backups is about: the server, unless it is about an add-on
// or a volume.
func (c *call) backupOf() mesh.BackupSubject { return cmp.Or(c.subject, mesh.BackupMesh) }

// placeGiven returns the place that the options name, with its credentials, or those of the
// plan if it has the same place. named is false if they name none.
func (c *call) placeGiven(plan mesh.BackupPlan, planned bool) (at mesh.BackupPlace, named bool, err error) {
	to, _ := c.flags.GetString("to")
	endpoint, _ := c.flags.GetString("endpoint")
	region, _ := c.flags.GetString("region")
	access, _ := c.flags.GetString("access-key")
	secret, _ := c.flags.GetString("secret-key")
	if is, s3 := plan.Place.URL.S3(); to == "" && s3 && (endpoint != "" || region != "") { // they replace those of the plan
		is.Endpoint, is.Region = cmp.Or(endpoint, is.Endpoint), cmp.Or(region, is.Region)
		to, endpoint, region = string(is.URL()), "", ""
	}
	switch {
	case to == "" && !planned && (c.flags.Changed("access-key") || c.flags.Changed("secret-key") || endpoint != "" || region != ""):
		return at, false, c.usage("the options of S3 need --to s3://BUCKET/PREFIX")
	case to == "":
		at = plan.Place
		if at.URL == "" && (planned || c.backupOf() != mesh.BackupMesh) {
			at = c.Backups.KeptAt(plan)
		}
	default:
		named = true
		if at.URL, err = mesh.ParsePlaceURL(to, endpoint, region); err != nil {
			return at, named, err
		}
		c.audited = append(c.audited, "--to "+string(at.URL))
		if planned && at.URL == c.Backups.KeptAt(plan).URL {
			at = c.Backups.KeptAt(plan)
		}
	}
	if c.flags.Changed("access-key") != c.flags.Changed("secret-key") {
		return at, named, c.usage("--access-key and --secret-key belong together")
	}
	if !c.flags.Changed("access-key") {
		return at, named, nil
	}
	if _, s3 := at.URL.S3(); !s3 {
		return at, named, c.usage("a folder has no access key")
	}
	if secret == "-" {
		if secret, err = c.text("the bytes of the secret key", maxPassword); err != nil {
			return at, named, err
		}
	}
	if access == "" || strings.TrimSpace(secret) == "" {
		return at, named, c.usage("the access key or the secret key is empty")
	}
	at.AccessKey, at.SecretKey, named = mesh.NewSecret(access), mesh.NewSecret(strings.TrimSpace(secret)), true
	return at, named, nil
}

// recipients returns whom --encrypt names, or those of the plan.
func (c *call) recipients(plan mesh.BackupPlan) ([]string, error) {
	if !c.flags.Changed("encrypt") {
		return plan.Recipients, nil
	}
	keys := c.values("encrypt")
	if len(keys) == 1 && keys[0] == "none" {
		return nil, nil
	}
	for _, k := range keys {
		if strings.HasPrefix(k, "ssh-") && !strings.Contains(k, " ") {
			return nil, mesh.Errorf(mesh.Invalid, "--encrypt has only the first word of an SSH key: ssh has taken the quotes away").WithHint(`quote it twice: --encrypt '"ssh-ed25519 AAAA…"'`)
		}
	}
	return keys, nil
}

func runBackupSchedule(ctx context.Context, c *call) error {
	plan, planned, err := c.Backups.BackupPlanOf(ctx, c.backupOf())
	if err != nil {
		return err
	}
	set := len(c.args) > 0
	for _, option := range []string{"to", "access-key", "secret-key", "endpoint", "region", "keep", "encrypt"} {
		set = set || c.flags.Changed(option)
	}
	switch {
	case !set:
		return c.showPlan(plan, planned)
	case len(c.args) == 0 && !planned:
		return c.usage("there is no schedule for backups yet: begin with one")
	}
	c.changed = true
	keys, err := c.recipients(plan)
	if err != nil {
		return err
	}
	to, named, err := c.placeGiven(plan, planned)
	if err != nil {
		return err
	}
	if !named {
		to = plan.Place
	}
	if to.URL == "" && c.backupOf() == mesh.BackupMesh {
		return c.usage("where are backups kept? Name a place: --to PLACE")
	}
	p := mesh.BackupPlan{Subject: c.backupOf(), Schedule: plan.Schedule, Place: to, Keep: plan.Keep, Recipients: keys, SetBy: c.Key.Name}
	if len(c.args) > 0 {
		p.Schedule = strings.Join(strings.Fields(strings.Join(c.args, " ")), " ")
	}
	if c.flags.Changed("keep") || p.Keep == 0 {
		p.Keep, _ = c.flags.GetInt("keep")
	}
	if p.Keep < 1 || p.Keep > 10_000 {
		return c.usage("--keep is between 1 and 10000")
	}
	if p, err = c.Backups.ScheduleBackup(ctx, p); err != nil {
		return err
	}
	did := []string{p.Schedule, fmt.Sprintf("--keep %d", p.Keep)}
	if len(p.Recipients) > 0 {
		did = append(did, fmt.Sprintf("--encrypt for %d", len(p.Recipients)))
	}
	c.audited = append(did, c.audited...)
	if c.json {
		return c.showPlan(p, true)
	}
	c.say("scheduled backups to %s, the next one at %s\n", c.Backups.KeptAt(p).URL, c.Backups.NextBackup(p).Format(time.RFC3339))
	if len(p.Recipients) == 0 && p.Subject == mesh.BackupMesh {
		c.tell("They are not encrypted, and contain every secret of the server: --encrypt age1… encrypts them.\n")
	}
	if s, ok := p.Place.URL.S3(); ok && strings.HasPrefix(s.Endpoint, "http://") {
		c.tell("They are sent without TLS.\n")
	}
	return nil
}

type backupPlanJSON struct {
	Schedule  string      `json:"schedule"`
	Place     string      `json:"place"`
	Keep      int         `json:"keep"`
	Encrypted bool        `json:"encrypted"`
	Keys      []string    `json:"encrypt,omitempty"`
	Next      *time.Time  `json:"next,omitempty"`
	Running   *time.Time  `json:"running_since,omitempty"`
	Failed    *time.Time  `json:"failed,omitempty"`
	Failure   string      `json:"failure,omitempty"`
	Last      *backupJSON `json:"last,omitempty"`
	Set       time.Time   `json:"set"`
	SetBy     string      `json:"set_by,omitempty"`
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// showPlan prints a plan, and how it fares.
func (c *call) showPlan(p mesh.BackupPlan, planned bool) error {
	if !planned {
		if c.json {
			return c.printJSON(nil)
		}
		how := "backup:schedule"
		switch v, ok := p.Subject.Volume(); {
		case ok:
			how = "volumes:schedule " + string(v)
		case p.Subject != mesh.BackupMesh:
			how = "addons:schedule " + string(p.Subject)
		}
		c.tell("no backups are scheduled; schedule them with: ssh mesh %s \"0 3 * * *\" --to PLACE\n", how)
		return nil
	}
	at := c.Backups.KeptAt(p).URL
	since, _ := c.Backups.BackupRuns(p.Subject)
	j := backupPlanJSON{
		Schedule: p.Schedule, Place: string(at), Keep: p.Keep, Encrypted: len(p.Recipients) > 0, Keys: p.Recipients, Next: orNil(c.Backups.NextBackup(p)),
		Running: orNil(since), Failed: orNil(p.State.Failed), Failure: p.State.Failure, Set: p.Set, SetBy: string(p.SetBy),
	}
	last := "none yet"
	if b := p.State.Last; b != nil {
		made := c.backupJSON(*b, at)
		j.Last, last = &made, fmt.Sprintf("%s, %s, %s", b.ID, c.when(b.Created), size(b.Size))
	}
	if c.json {
		return c.printJSON(j)
	}
	row := func(k, v string) { c.say("%-14s %s\n", k, mesh.Visible(v)) }
	row("Schedule:", p.Schedule)
	row("Place:", string(at))
	row("Keep:", fmt.Sprint(p.Keep))
	encrypted := "no"
	if n := len(p.Recipients); n > 0 {
		encrypted = "for " + mesh.Clip(strings.Join(p.Recipients, ", "), 300)
	}
	row("Encrypted:", encrypted)
	if j.Next != nil {
		row("Next:", j.Next.Format(time.RFC3339))
	}
	if !since.IsZero() {
		row("Running:", "since "+c.when(since))
	}
	row("Last:", last)
	c.tellFailure(p)
	return nil
}

// tellFailure prints why the last run of a plan failed, if it did.
func (c *call) tellFailure(p mesh.BackupPlan) {
	if s := p.State; !s.Failed.IsZero() {
		c.say("%-14s %s: %s\n", "Failed:", c.when(s.Failed), mesh.Visible(s.Failure))
	}
}

func runBackupUnschedule(ctx context.Context, c *call) error {
	c.changed = true
	p, planned, err := c.Backups.BackupPlanOf(ctx, c.backupOf())
	if err != nil {
		return err
	}
	if err := c.Backups.UnscheduleBackup(ctx, c.backupOf(), c.Key.Name); err != nil {
		return err
	}
	kept := ""
	if planned {
		at := c.Backups.KeptAt(p).URL
		c.audited = append(c.audited, string(at))
		kept = fmt.Sprintf("; its backups stay in %s", at)
	}
	c.say("removed the schedule for backups%s\n", kept)
	return nil
}

type backupRunJSON struct {
	backupJSON
	Seconds float64  `json:"seconds"`
	Removed []string `json:"removed,omitempty"`
	Warning string   `json:"warning,omitempty"`
}

func runBackupRun(ctx context.Context, c *call) error {
	plan, planned, err := c.Backups.BackupPlanOf(ctx, c.backupOf())
	if err != nil {
		return err
	}
	c.changed = true
	keys, err := c.recipients(plan)
	if err != nil {
		return err
	}
	at, named, err := c.placeGiven(plan, planned)
	if err != nil {
		return err
	}
	to := &at
	if planned && !named && !c.flags.Changed("encrypt") || c.backupOf() == mesh.BackupMesh && !named && !c.flags.Changed("encrypt") || planned && at.URL == c.Backups.KeptAt(plan).URL && !c.flags.Changed("access-key") && !c.flags.Changed("encrypt") {
		to = nil // as planned
	} else if at.URL == "" {
		return c.usage("the server has no schedule for backups: name a place with --to PLACE")
	}
	run, err := c.Backups.RunBackup(ctx, c.backupOf(), to, keys)
	if err != nil {
		return err
	}
	c.audited = append(c.audited, run.Backup.ID)
	if c.json {
		return c.printJSON(backupRunJSON{c.backupJSON(run.Backup, run.Place), run.Took.Seconds(), run.Removed, run.Warning})
	}
	c.say("made %s: %s in %s (%s before compression)\n", run.Place.Item(run.Backup.ID), size(run.Backup.Size), took(run.Took), size(run.Backup.Content))
	if len(run.Removed) > 0 {
		c.say("removed %s\n", strings.Join(run.Removed, ", "))
	}
	if run.Warning != "" {
		c.tell("warning: %s\n", mesh.Visible(run.Warning))
	}
	return nil
}

// took is how long something took, for people.
func took(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

type backupJSON struct {
	ID        string    `json:"id"`
	Subject   string    `json:"subject"`
	Kind      string    `json:"kind,omitempty"`
	Created   time.Time `json:"created"`
	Size      int64     `json:"size"`
	Content   int64     `json:"content_size"`
	Sum       string    `json:"sha256,omitempty"`
	Encrypted bool      `json:"encrypted"`
	Place     string    `json:"place"`
	Whole     bool      `json:"whole"`
	Fault     string    `json:"fault,omitempty"`
	Mesh      string    `json:"mesh,omitempty"`
}

func (c *call) backupJSON(b mesh.Backup, at mesh.PlaceURL) backupJSON {
	return backupJSON{
		ID: b.ID, Subject: string(b.Subject), Kind: b.Kind, Created: b.Created, Size: b.Size, Content: b.Content, Sum: b.Sum, Encrypted: b.Encrypted,
		Place: string(at), Whole: b.Whole(), Fault: b.Fault, Mesh: b.Mesh,
	}
}

// placeToRead returns the place of the options, or that of the plan.
func (c *call) placeToRead(plan mesh.BackupPlan, planned bool) (mesh.BackupPlace, error) {
	at, _, err := c.placeGiven(plan, planned)
	if err == nil && at.URL == "" {
		err = c.usage("the server has no schedule for backups: name a place with --to PLACE")
	}
	return at, err
}

func runBackupList(ctx context.Context, c *call) error {
	plan, planned, err := c.Backups.BackupPlanOf(ctx, c.backupOf())
	if err != nil {
		return err
	}
	at, err := c.placeToRead(plan, planned)
	if err != nil {
		return err
	}
	all, err := c.Backups.ListBackups(ctx, at)
	if err != nil {
		return err
	}
	list := []backupJSON{}
	var rows [][]string
	for _, b := range all {
		if c.backupOf() != mesh.BackupMesh && b.Subject != c.backupOf() {
			continue
		}
		list = append(list, c.backupJSON(b, at.URL))
		state, encrypted := "whole", "no"
		if b.Fault != "" {
			state = mesh.Visible(b.Fault)
		}
		if b.Encrypted {
			encrypted = "yes"
		}
		rows = append(rows, []string{b.ID, ago(c.Now().Sub(b.Created)), b.Created.Format(time.RFC3339), size(b.Size), encrypted, state})
	}
	if len(rows) == 0 && !c.json {
		c.tell("%s has no backups\n", at.URL)
	} else if err := c.list(list, []string{"BACKUP", "AGE", "MADE", "SIZE", "ENCRYPTED", "STATE"}, rows); err != nil {
		return err
	}
	if planned && !c.json && at.URL == c.Backups.KeptAt(plan).URL {
		c.tellFailure(plan)
	}
	if !c.json && len(rows) > 0 {
		c.tell("in %s\n", at.URL)
	}
	return nil
}

type backupCheckJSON struct {
	backupJSON
	Read    bool    `json:"content_read"`
	What    string  `json:"content,omitempty"`
	Seconds float64 `json:"seconds"`
}

func runBackupVerify(ctx context.Context, c *call) error {
	id := "latest"
	if len(c.args) > 0 {
		id = c.args[0]
	}
	identity, err := c.identity()
	if err != nil {
		return err
	}
	plan, planned, err := c.Backups.BackupPlanOf(ctx, c.backupOf())
	if err != nil {
		return err
	}
	at, err := c.placeToRead(plan, planned)
	if err != nil {
		return err
	}
	got, err := c.Backups.VerifyBackup(ctx, at, c.backupOf(), id, identity)
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(backupCheckJSON{c.backupJSON(got.Backup, got.Place), got.Read, got.Content, got.Took.Seconds()})
	}
	what := ""
	if got.Content != "" {
		what = ": " + got.Content
	}
	c.say("%s is whole%s (%s read in %s)\n", got.Backup.ID, what, size(got.Backup.Size), took(got.Took))
	if !got.Read {
		c.tell("It is encrypted, and only its stored bytes were checked. To check its content: ssh mesh backup:verify %s --identity - < KEY\n", got.Backup.ID)
	}
	return nil
}

// identity reads the key of --identity - from standard input.
func (c *call) identity() (identity mesh.Secret, err error) {
	switch v, _ := c.flags.GetString("identity"); {
	case v == "-":
		if secret, _ := c.flags.GetString("secret-key"); secret == "-" {
			return identity, c.usage("standard input can have the identity or the secret key, not both")
		}
		text, err := c.text("the bytes of the identity", maxIdentity)
		if err != nil {
			return identity, err
		}
		identity = mesh.NewSecret(text)
	case v != "":
		return identity, c.usage("--identity takes - and reads the key from standard input: no list of processes has it then")
	}
	return identity, nil
}

// maxIdentity limits what is read of a key, in bytes.
const maxIdentity = 64 << 10
