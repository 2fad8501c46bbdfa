package builder

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"

	"mesh"
	"mesh/builder/detect"
	"mesh/engine"
)

// Patterns of BuildKit's errors. They have no types, and old engines send only text.
var (
	exitCode    = regexp.MustCompile(`exit code: (\d+)|returned a non-zero code: (\d+)`)
	missingFile = regexp.MustCompile(`"(/[^"]*)"(?:: | )not found|lstat (\S+): no such file|stat (\S+): file does not exist|COPY failed: file not found in build context or excluded by .dockerignore: stat ([^:]+)`)
	noSecret    = regexp.MustCompile(`secret ([A-Za-z0-9_.-]+):? not found`)
	pulledImage = regexp.MustCompile(`(?:failed to resolve source metadata for|pull access denied for|manifest for) ([^\s,]+?)(?:[:,]? |$)`)
	parseError  = regexp.MustCompile(`^(?:dockerfile|Dockerfile) parse error (?:on )?line (\d+): `)
)

var networkWords = []string{
	"no such host", "i/o timeout", "connection refused", "network is unreachable", "no route to host", "TLS handshake timeout",
	"server misbehaving", "Temporary failure in name resolution", "deadline exceeded", "proxyconnect", "connection reset", "x509:",
	"request canceled while waiting for connection", ": EOF",
}

var unknownImageWords = []string{
	"not found", "manifest unknown", "pull access denied", "insufficient_scope", "authorization failed", "unauthorized", "access forbidden", "repository does not exist", "no basic auth credentials", "403 Forbidden", "401 Unauthorized", "denied:",
}

// explain turns BuildKit's error into the cause, for the person who pushed.
func (j *job) explain(ctx context.Context, err error, r *renderer, lines *lineRecorder) error {
	if ctx.Err() != nil {
		return err // fault reports it
	}
	var refused *refusal
	if errors.As(err, &refused) {
		return refused.told
	}
	text := plain(err)
	if strings.Contains(text, "no space left on device") {
		return engine.DiskFull(err)
	}
	if j.gone(ctx, err) {
		e := engine.Unreachable(j.cli.Host(), err)
		e.Text = "the Docker Engine stopped during the build"
		return e
	}
	f := j.failedStep(err, text, r, lines)
	e := &mesh.Error{Kind: mesh.Failed, Output: f.output, Err: err}
	code := submatch(exitCode, text)
	// With control groups version 2, later BuildKits (for example that of Docker 28)
	// report this instead of the code.
	killed := strings.Contains(text, "did not complete successfully: cannot allocate memory")
	if code != "" || killed {
		j.exited(e, f, code, killed)
		return e
	}
	if m := execFailed.FindStringSubmatch(text); m != nil && strings.HasPrefix(f.name, "RUN") {
		e.Text = fmt.Sprintf("%s'%s' cannot start %s", j.at(f.line), told(f.name), cmp.Or(m[1], m[3]))
		e.Hint = cmp.Or(j.scriptFault(f.line, f.name, text, f.output), "the image does not contain it at that step")
		return e
	}
	if m := submatch(noSecret, text); m != "" {
		e.Text = fmt.Sprintf("%s'%s' needs the secret %s, but no config var has that name", j.at(f.line), told(f.name), m)
		return e.WithHint("ssh mesh config:set -a %s %s=…", j.Stack, m)
	}
	if f.unseen || strings.HasPrefix(f.name, "FROM") {
		if base := j.baseFault(err, text, f.line); base != nil {
			return base
		}
	}
	if m := submatch(missingFile, text); m != "" && (strings.HasPrefix(f.name, "COPY") || strings.HasPrefix(f.name, "ADD") || f.name == "") {
		j.noFile(e, f, strings.TrimPrefix(m, "/"))
		return e
	}
	var located *parser.LocationError
	if errors.As(err, &located) {
		return j.df.syntaxError(err)
	}
	if strings.Contains(text, "dockerfile parse error") {
		return j.df.syntaxError(errors.New(text))
	}
	e.Text = j.at(f.line) + firstLine(text)
	if f.name != "" && f.line == 0 {
		e.Text = fmt.Sprintf("'%s': %s", told(f.name), firstLine(text))
	}
	return e
}

// failedStep is the step in which a build failed, as far as BuildKit says.
type failedStep struct {
	name   string // "RUN make", without values; empty if unseen
	unseen bool   // none that the pusher has seen
	line   int    // in the Dockerfile; 0: unknown
	output []string
	hint   string // what the output says to do; empty: nothing
	text   string // the error
}

func (j *job) failedStep(err error, text string, r *renderer, lines *lineRecorder) failedStep {
	f := failedStep{text: text, unseen: true}
	var vertex *errdefs.VertexError
	var d digest.Digest
	if errors.As(err, &vertex) {
		d = digest.Digest(vertex.Digest)
	}
	if s := r.culprit(d); s != nil {
		f.line, f.unseen = lines.line(s.digest), s.quiet
		f.output, f.hint = j.evidence(s)
		if !s.quiet {
			f.name = j.out.names.Replace(s.name) // before it is cut: half a value is still a value
		}
	}
	if n := sourceLine(err); n != 0 {
		f.line = n
	}
	return f
}

// exited says what a command's exit status means. killed: there was not enough memory.
func (j *job) exited(e *mesh.Error, f failedStep, code string, killed bool) {
	e.Text = fmt.Sprintf("'%s' exited %s", told(f.name), code)
	if killed {
		e.Text = fmt.Sprintf("'%s' ran out of memory", told(f.name))
	}
	if f.line > 0 {
		e.Hint = fmt.Sprintf("see %s:%d", j.df.shown, f.line)
	}
	if j.df.managed {
		e.Hint += fmt.Sprintf("; print it with: ssh mesh build:dockerfile -a %s", j.Stack)
	}
	switch {
	case diskFullIn(f.output):
		e.Hint = "the server's disk is full: free space, e.g. with: docker builder prune"
	case killed, code == "137", outOfMemory(f.output):
		e.Hint = "it was killed, most likely because the server ran out of memory"
		if j.memory > 0 {
			e.Hint = fmt.Sprintf("it was killed, most likely because it used too much memory: all builds together may use %d MB", j.memory>>20)
		}
	case outOfProcesses(f.output):
		e.Hint = fmt.Sprintf("it starts too many processes: all builds together may have %d", j.pids)
	default:
		site := siteFault(f.output)
		switch hint := cmp.Or(site, j.scriptFault(f.line, f.name, f.text, f.output), f.hint); {
		case site != "":
			e.Text, e.Hint = strings.TrimPrefix(site, "mesh: "), fmt.Sprintf(noSite, j.Stack, j.Stack)
		case hint != "":
			e.Hint = hint
		case code == "127" && j.df.managed:
			e.Hint = fmt.Sprintf("add the package that has that command to the dependencies, or install Debian's: ssh mesh build:set -a %s build-packages=…", j.Stack)
		case code == "127":
			e.Hint = "the base image does not have that command"
		}
	}
}

const noSite = "name the folder of the built site: ssh mesh build:set -a %s output=DIR; if a server serves it: ssh mesh build:set -a %s start-command=COMMAND"

// siteFault is what a managed build says that has made no site, or empty.
func siteFault(output []string) string {
	for _, l := range output {
		if strings.HasPrefix(l, detect.NoSite) {
			return l
		}
	}
	return ""
}

// noFile says why COPY or ADD did not find a file.
func (j *job) noFile(e *mesh.Error, f failedStep, path string) {
	at := fmt.Sprintf("%s'%s'", j.at(f.line), told(f.name))
	switch _, err := j.files.resolve(path); {
	case strings.Contains(f.name, "--from="):
		e.Text = fmt.Sprintf("%s: there is no /%s in that stage or image", at, path)
		e.Hint = "correct the path"
	case err == nil:
		e.Text = fmt.Sprintf("%s: %s is excluded by the ignore file", at, path)
		e.Hint = "add the line to .dockerignore: !" + path
	default:
		e.Text = fmt.Sprintf("%s: there is no %s in the pushed tree", at, path)
		e.Hint = "commit it, or correct the path"
	}
}

// at is "Dockerfile:3: ", or empty.
func (j *job) at(line int) string {
	if line == 0 {
		return ""
	}
	return fmt.Sprintf("%s:%d: ", j.df.shown, line)
}

// baseFault distinguishes an image that does not exist from a registry that cannot
// be reached. It returns nil if the error is about neither.
func (j *job) baseFault(err error, text string, line int) error {
	image := j.df.imageAt(line)
	if image == "" {
		image = familiar(submatch(pulledImage, text))
	}
	if image == "" {
		return nil
	}
	mentions := func(w string) bool { return strings.Contains(text, w) }
	stages := j.df.stageLike(image)
	switch {
	case stages != "" && (slices.ContainsFunc(networkWords, mentions) || slices.ContainsFunc(unknownImageWords, mentions)):
		return &mesh.Error{Kind: mesh.Failed, Text: fmt.Sprintf("%sthere is no stage or base image %s", j.at(line), image), Hint: stages, Err: err}
	case slices.ContainsFunc(networkWords, mentions):
		return &mesh.Error{
			Kind: mesh.Unavailable, Text: fmt.Sprintf("%sthe base image %s is not on the server, and its registry cannot be reached", j.at(line), image),
			Hint: "check the server's network; try on the server: docker pull " + image, Err: err,
		}
	case slices.ContainsFunc(unknownImageWords, mentions) && j.df.managed:
		return &mesh.Error{
			Kind: mesh.Failed, Text: fmt.Sprintf("%sthere is no image %s", j.at(line), image),
			Hint: fmt.Sprintf("ask for another version, in the file that the lines above name, or with: ssh mesh build:set -a %s language-version=VERSION", j.Stack), Err: err,
		}
	case slices.ContainsFunc(unknownImageWords, mentions):
		return &mesh.Error{
			Kind: mesh.Failed, Text: fmt.Sprintf("%sthere is no base image %s, or it is private", j.at(line), image),
			Hint: "correct the name, or log in to the registry: ssh mesh registry:login HOST USER < password", Err: err,
		}
	}
	return nil
}

// imageAt is the image that the instruction at a line names, as written: that of a
// FROM, or of a COPY --from.
func (d *dockerfile) imageAt(line int) string {
	res, err := parser.Parse(bytes.NewReader(d.text))
	if err != nil || line == 0 {
		return ""
	}
	for _, n := range res.AST.Children {
		if n.StartLine > line || n.EndLine < line {
			continue
		}
		if strings.EqualFold(n.Value, "from") && n.Next != nil {
			return familiar(n.Next.Value)
		}
		for _, f := range n.Flags {
			if image, ok := strings.CutPrefix(f, "--from="); ok {
				return familiar(image)
			}
		}
	}
	return ""
}

// familiar is the name of an image as people write it.
func familiar(ref string) string {
	ref = strings.Trim(ref, `"'`)
	ref = strings.TrimPrefix(ref, "docker.io/")
	ref, _, _ = strings.Cut(strings.TrimPrefix(ref, "library/"), "@")
	return ref
}

// syntaxError puts file and line before the message.
func (d *dockerfile) syntaxError(err error) error {
	text := firstLine(plain(err))
	line := sourceLine(err)
	if m := parseError.FindStringSubmatch(text); m != nil {
		_, _ = fmt.Sscanf(m[1], "%d", &line)
		text = text[len(m[0]):]
	}
	e := &mesh.Error{Kind: mesh.Failed, Text: d.shown + ": " + text, Err: err}
	if line > 0 {
		e.Text = fmt.Sprintf("%s:%d: %s", d.shown, line, text)
	}
	return e
}

// sourceLine is the first line that the error is about, 0 if unknown.
func sourceLine(err error) int {
	var l *parser.LocationError
	if errors.As(err, &l) {
		for _, ranges := range l.Locations {
			for _, r := range ranges {
				if r.Start.Line > 0 {
					return r.Start.Line
				}
			}
		}
	}
	for _, s := range errdefs.Sources(err) {
		for _, r := range s.Ranges {
			if r.Start != nil && r.Start.Line > 0 {
				return int(r.Start.Line)
			}
		}
	}
	return 0
}

// gone reports whether the engine failed, not the build. It may already answer
// again: an engine that restarts is back within a second.
func (b *Builder) gone(ctx context.Context, err error) bool {
	if grpcerrors.Code(err) == codes.Unavailable || engine.Away(err) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, perr := b.cli.API(ctx).Ping(ctx)
	return perr != nil && engine.Away(perr)
}

// mask removes config values from the texts of an error. It drops the cause if that
// contains one: causes are logged.
func (j *job) mask(err error) error {
	var e *mesh.Error
	if !errors.As(err, &e) {
		if s := err.Error(); j.out.names.Replace(s) != s {
			return errors.New(j.out.names.Replace(s))
		}
		return err
	}
	c := *e
	c.Text, c.Hint = j.out.names.Replace(e.Text), j.out.names.Replace(e.Hint)
	if e.Err != nil {
		if s := e.Err.Error(); j.out.names.Replace(s) != s {
			c.Err = errors.New(j.out.names.Replace(s))
		}
	}
	return &c
}

// plain is BuildKit's text without its wrappers.
func plain(err error) string {
	s := err.Error()
	for _, p := range []string{"failed to run Build function: ", "failed to solve: ", "rpc error: code = Unknown desc = ", "rpc error: code = NotFound desc = ", "executor failed running ", "failed to compute cache key: "} {
		s = strings.ReplaceAll(s, p, "")
	}
	return s
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return clean([]byte(s))
}

// mounts are the options of a RUN that say what it sees, not what it does.
var mounts = regexp.MustCompile(`^RUN(?: --(?:mount|network|security)=\S+)+ `)

// told is the name of a step in an error: its beginning, without mounts.
func told(name string) string {
	return shorten(mounts.ReplaceAllString(name, "RUN "), 60)
}

// shorten cuts a command to n characters.
func shorten(s string, n int) string {
	s = strings.Join(strings.Fields(s), " ")
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return strings.TrimRight(string([]rune(s)[:n-1]), " ") + "…"
}

// submatch is the first group that matched.
func submatch(re *regexp.Regexp, s string) string {
	m := re.FindStringSubmatch(s)
	for _, g := range m[min(1, len(m)):] {
		if g != "" {
			return g
		}
	}
	return ""
}

func diskFullIn(lines []string) bool {
	for _, l := range lines {
		if strings.Contains(strings.ToLower(l), "no space left on device") {
			return true
		}
	}
	return false
}
