package builder

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/pkg/jsonmessage"
	"github.com/moby/patternmatcher"

	"mesh"
	"mesh/engine"
)

var classicStep = regexp.MustCompile(`^Step (\d+)/(\d+) : (.*)`)

// classic is for engines without BuildKit: it runs one step after the other, without
// mounts in RUN and without heredocs. It cannot leave out VOLUME and EXPOSE;
// instead, containers are removed with their volumes.
func (j *job) classic(ctx context.Context) (mesh.Image, error) {
	ignore, err := j.df.matcher(j.files)
	if err != nil {
		return mesh.Image{}, err
	}
	src := j.files.tar(ignore, j.df.sent(j.files, ignore))
	defer src.Close()
	args := map[string]*string{}
	for k, v := range j.args {
		args[k] = &v
	}
	auths, err := j.authConfigs(ctx)
	if err != nil {
		return mesh.Image{}, err
	}
	if err := errors.Join(j.admitBases(ctx), j.mayAdd(ctx)); err != nil {
		return mesh.Image{}, err
	}
	resp, err := j.cli.API(ctx).ImageBuild(ctx, src, build.ImageBuildOptions{
		Version: build.BuilderV1, CgroupParent: j.group.classic, Dockerfile: j.df.path, Tags: j.Tags, Labels: j.labels(),
		NoCache: j.NoCache, Target: j.Settings.Target, PullParent: mesh.IsTrue(j.Settings.Pull), BuildArgs: args, AuthConfigs: auths, Remove: true, ForceRemove: true,
	})
	if errors.Is(context.Cause(ctx), errTimeout) {
		return mesh.Image{}, j.timedOut(nil)
	}
	if err != nil {
		if strings.Contains(err.Error(), "parse error") || strings.Contains(err.Error(), "unknown instruction") {
			text := strings.TrimPrefix(err.Error(), "Error response from daemon: ")
			return mesh.Image{}, j.df.syntaxError(errors.New(text))
		}
		return mesh.Image{}, fmt.Errorf("send the tree: %w", err)
	}
	defer resp.Body.Close()
	var img mesh.Image
	s := &step{name: "build"}
	r := newRenderer(j.out)
	for dec := json.NewDecoder(resp.Body); ; {
		var m jsonmessage.JSONMessage
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if errors.Is(context.Cause(ctx), errTimeout) {
			return mesh.Image{}, j.timedOut(nil)
		} else if err != nil {
			return mesh.Image{}, fmt.Errorf("read the build's output: %w", err)
		}
		switch {
		case m.Error != nil:
			r.flush(s)
			return mesh.Image{}, j.classicFault(s, m.Error.Message)
		case m.Aux != nil:
			var v build.Result
			if json.Unmarshal(*m.Aux, &v) == nil && v.ID != "" {
				img.ID = v.ID
			}
		case m.Stream != "":
			s = j.classicOutput(r, s, m.Stream)
		}
	}
	r.flush(s)
	if img.ID == "" {
		return mesh.Image{}, &mesh.Error{Kind: mesh.Unavailable, Text: "the Docker Engine stopped during the build", Hint: "push again"}
	}
	img.Shell, err = j.shellIn(ctx, img.ID)
	return img, err
}

// sent is what the old builder needs besides the tree: it takes the Dockerfile from
// there. If a .dockerignore excludes the Dockerfile or itself, the engine removes it
// after reading it.
func (d *dockerfile) sent(f *files, ignore *patternmatcher.PatternMatcher) map[string][]byte {
	if out, err := ignore.MatchesOrParentMatches(d.path); err != nil || !out {
		return nil
	}
	sent := map[string][]byte{d.path: d.text}
	if _, own := f.index[".dockerignore"]; own {
		if out, err := ignore.MatchesOrParentMatches(".dockerignore"); err != nil || !out {
			return sent
		}
	}
	sent[".dockerignore"] = []byte(d.path + "\n.dockerignore\n")
	return sent
}

// classicOutput prints the classic builder's output in the renderer's form.
func (j *job) classicOutput(r *renderer, s *step, text string) *step {
	line := strings.TrimRight(text, "\n")
	if m := classicStep.FindStringSubmatch(line); m != nil {
		r.flush(s)
		s = &step{name: m[3], started: time.Now()}
		j.out.detail(fmt.Sprintf("#%s [%s/%s] %s", m[1], m[1], m[2], j.out.title(m[3])))
		return s
	}
	switch {
	case line == " ---> Using cache":
		j.out.detail("   CACHED")
	case strings.HasPrefix(line, " ---> "), strings.HasPrefix(line, "Removing intermediate container "),
		strings.HasPrefix(line, "Successfully built "), strings.HasPrefix(line, "Successfully tagged "), strings.TrimSpace(line) == "" && len(s.part) == 0:
	default:
		r.output(s, []byte(text))
	}
	return s
}

func (j *job) classicFault(s *step, text string) error {
	output, hint := j.evidence(s)
	e := &mesh.Error{Kind: mesh.Failed, Text: firstLine(text), Output: output, Err: errors.New(text)}
	if strings.Contains(text, "no space left on device") {
		return engine.DiskFull(e.Err)
	}
	if code := submatch(exitCode, text); code != "" {
		e.Text = fmt.Sprintf("'%s' exited %s", told(j.out.names.Replace(s.name)), code)
		e.Hint = cmp.Or(j.scriptFault(0, s.name, text, e.Output), hint)
		return e
	}
	if base := j.baseFault(e.Err, text, 0); base != nil {
		return base
	}
	if m := submatch(missingFile, text); m != "" {
		e.Text = fmt.Sprintf("'%s': there is no %s in the pushed tree", told(j.out.names.Replace(s.name)), m)
	}
	return e
}

// shellIn inspects an image through a container that is never started.
func (j *job) shellIn(ctx context.Context, image string) (bool, error) {
	c, err := j.cli.API(ctx).ContainerCreate(ctx, &container.Config{Image: image, Cmd: []string{"none"}, Labels: map[string]string{labelServer: j.server}},
		&container.HostConfig{NetworkMode: "none"}, &network.NetworkingConfig{}, nil, "")
	if err != nil {
		return false, fmt.Errorf("look for a shell: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if err := j.cli.API(ctx).ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
			j.log.WarnContext(ctx, "container left behind", "container", c.ID, "err", err)
		}
	}()
	return hasShell(func(p string) (fs.FileMode, string, error) {
		st, err := j.cli.API(ctx).ContainerStatPath(ctx, c.ID, p)
		return st.Mode, st.LinkTarget, err
	}), nil
}
