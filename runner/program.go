package runner

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// The kernel says "no such file" about a program that is missing, one whose
// interpreter is missing, and one whose loader is missing (execve(2), ENOENT).
// Shells and inits repeat that. So mesh looks at the file.

// programHead is how much of a program is read: the first line of a script
// (BINPRM_BUF_SIZE, 256), the program headers of an ELF file and its loader's path.
const programHead = 64 << 10

// initFailed matches what the init prints if it cannot start the program: with an
// init, the engine has started the container by then, and reports nothing.
var initFailed = regexp.MustCompile(`^\[FATAL tini \(\d+\)\] exec (.+) failed: (.+)$`)

// shellFailed matches what shells print about a program that they cannot start:
//
//	dash     /bin/sh: 1: exec: ./build.sh: not found
//	busybox  /bin/sh: exec: line 0: ./build.sh: not found
//	bash     bash: line 1: ./build.sh: cannot execute: required file not found
//	bash     bash: ./build.sh: /bin/sh^M: bad interpreter: No such file or directory
var shellFailed = regexp.MustCompile(`(?:^|: )([^\s:]+): (?:(?:/[^:]*: )?bad interpreter: .*|not found|No such file or directory|cannot execute: required file not found|Permission denied|Exec format error|cannot execute binary file.*)$`)

// envFailed matches what env prints about the program in a "#!/usr/bin/env" line.
var envFailed = regexp.MustCompile(`\benv: (?:can't execute )?(?:'|‘|\$')?([^'’:\s\\]+)(\\r|\\015|\r|\?)?(?:'\$'\\r)?(?:'|’)?'*: No such file or directory`)

// unstarted finds, in the last lines of a container's output, the program that could
// not be started; line is the one that says so.
func unstarted(output []string) (program, line string, byInit bool) {
	for i := len(output) - 1; i >= 0; i-- {
		l := strings.TrimRight(output[i], "\r")
		if m := initFailed.FindStringSubmatch(l); m != nil {
			return m[1], m[2], true
		}
	}
	for i := len(output) - 1; i >= 0; i-- {
		if m := shellFailed.FindStringSubmatch(strings.TrimRight(output[i], "\r")); m != nil && !envFailed.MatchString(output[i]) {
			return m[1], output[i], false
		}
	}
	return "", "", false
}

// readAsScript matches what a shell prints when it reads a program for another
// machine as a script: execvp(3), which inits use, passes it to /bin/sh.
var readAsScript = regexp.MustCompile(`^(\S+?): (?:line )?\d+: .*\x7f?ELF`)

// cause is why a program cannot be started, and what to do.
type cause struct {
	text, hint string
	sure       bool // whatever the exit code is
}

const (
	commandHint = "correct the command, or the image's ENTRYPOINT and CMD"
	modeHint    = "make it executable, e.g. with: git update-index --chmod=+x FILE"
	endsHint    = `save it with LF line ends; to make git keep them, add this line to .gitattributes: *.sh text eol=lf`
)

// diagnose looks into a container, which need not be running, for the reason why it
// ended with this output. It returns the zero value if it finds none.
func (r *Runner) diagnose(ctx context.Context, id string, output []string) cause {
	for _, l := range output {
		if m := envFailed.FindStringSubmatch(l); m != nil {
			if m[2] != "" || strings.Contains(l, `\r`) {
				return cause{text: fmt.Sprintf("the first line of a script names %q: it ends in CR", m[1]+"\r"), hint: endsHint}
			}
			return cause{text: fmt.Sprintf("the interpreter of a script, %s, is not in the image", m[1]), hint: "install " + m[1] + " in the Dockerfile, or change the script's first line"}
		}
	}
	for _, l := range output {
		if m := readAsScript.FindStringSubmatch(l); m != nil {
			c, err := r.look(ctx, id, m[1])
			c.sure = err == nil && c.text != ""
			return c
		}
	}
	program, said, byInit := unstarted(output)
	if program == "" {
		return cause{}
	}
	c, err := r.look(ctx, id, program)
	if err != nil {
		r.log.WarnContext(ctx, "cannot inspect a program", "container", short(id), "err", err)
	}
	if c.text != "" || !byInit {
		return c
	}
	switch {
	case strings.Contains(said, "No such file"):
		return cause{text: fmt.Sprintf("the image has no program %q", program), hint: commandHint}
	case strings.Contains(said, "Permission denied"):
		return cause{text: fmt.Sprintf("%q is not executable", program), hint: modeHint}
	case strings.Contains(said, "Exec format"):
		return cause{text: fmt.Sprintf("%q is not a program for this machine", program), hint: "a script needs a first line such as #!/bin/sh"}
	}
	return cause{text: fmt.Sprintf("%q: %s", program, said), hint: commandHint}
}

// look finds out why a program in a container cannot be started. The zero value
// means that it exists and has no known fault, or that it cannot be inspected.
func (r *Runner) look(ctx context.Context, id, program string) (cause, error) {
	in, err := r.cli.API(ctx).ContainerInspect(ctx, id)
	if err != nil {
		return cause{}, err
	}
	places := []string{path.Join("/", in.Config.WorkingDir, program)}
	if path.IsAbs(program) {
		places[0] = program
	} else if !strings.Contains(program, "/") {
		places = nil
		search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
		for _, e := range in.Config.Env {
			if p, ok := strings.CutPrefix(e, "PATH="); ok {
				search = p
			}
		}
		for dir := range strings.SplitSeq(search, ":") {
			places = append(places, path.Join("/", dir, program))
		}
	}
	for _, p := range places {
		f, err := r.file(ctx, id, p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return cause{}, err
		}
		has := func(p string) bool {
			_, err := r.file(ctx, id, p)
			return !errors.Is(err, fs.ErrNotExist)
		}
		return judge(program, f, has), nil
	}
	if strings.HasPrefix(places[0], "/proc/") || strings.HasPrefix(places[0], "/sys/") || strings.HasPrefix(places[0], "/dev/") {
		return cause{}, nil // these do not exist in a container that is not running
	}
	return cause{text: fmt.Sprintf("the image has no program %q", program), hint: commandHint}, nil
}

// programFile is what is known about a file.
type programFile struct {
	mode fs.FileMode
	size int64
	head []byte
}

// file reads the beginning of a file in a container, following links.
func (r *Runner) file(ctx context.Context, id, p string) (programFile, error) {
	for range 10 {
		st, err := r.cli.API(ctx).ContainerStatPath(ctx, id, p)
		if errdefs.IsNotFound(err) {
			return programFile{}, fs.ErrNotExist
		}
		if err != nil {
			return programFile{}, err
		}
		if st.Mode&fs.ModeSymlink != 0 {
			if p = st.LinkTarget; !path.IsAbs(p) {
				return programFile{}, fs.ErrNotExist
			}
			continue
		}
		f := programFile{mode: st.Mode, size: st.Size}
		if !st.Mode.IsRegular() {
			return f, nil
		}
		body, _, err := r.cli.API(ctx).CopyFromContainer(ctx, id, p)
		if errdefs.IsNotFound(err) {
			return f, fs.ErrNotExist
		} else if err != nil {
			return f, err
		}
		defer body.Close()
		t := tar.NewReader(body)
		if _, err := t.Next(); err != nil {
			return f, err
		}
		f.head, err = io.ReadAll(io.LimitReader(t, programHead))
		return f, err
	}
	return programFile{}, fs.ErrNotExist // links in a circle
}

// judge explains what is wrong with a program; has reports whether the image has a
// file.
func judge(program string, f programFile, has func(string) bool) cause {
	switch {
	case f.mode.IsDir():
		return cause{text: fmt.Sprintf("%q is a folder", program), hint: commandHint}
	case f.mode.IsRegular() && f.mode.Perm()&0o111 == 0:
		return cause{text: fmt.Sprintf("%q is not executable", program), hint: modeHint}
	case f.mode.IsRegular() && f.size == 0:
		return cause{text: fmt.Sprintf("%q is empty", program), hint: "commit its content"}
	case bytes.HasPrefix(f.head, []byte("\xef\xbb\xbf#!")):
		return cause{text: fmt.Sprintf("%q begins with a byte order mark, so its first line is ignored", program), hint: "save it as UTF-8 without BOM"}
	case bytes.HasPrefix(f.head, []byte("#!")):
		line, _, _ := bytes.Cut(f.head[2:], []byte("\n"))
		words := strings.Fields(strings.TrimSuffix(string(line), "\r"))
		if bytes.HasSuffix(line, []byte("\r")) {
			return cause{text: fmt.Sprintf("%q exists, but its lines end in CR LF: its interpreter would be %q", program, strings.TrimLeft(string(line), " \t")), hint: endsHint}
		}
		if len(words) > 0 && !has(words[0]) {
			return cause{
				text: fmt.Sprintf("%q exists, but its interpreter, %s, is not in the image", program, plain(words[0])),
				hint: fmt.Sprintf("install %s in the Dockerfile, or change the first line of %s to an interpreter in the image, such as #!/bin/sh", plain(path.Base(words[0])), path.Base(program)),
			}
		}
		return cause{}
	case bytes.HasPrefix(f.head, []byte("\x7fELF")):
		return judgeELF(program, f.head, has)
	case f.mode.IsRegular() && len(f.head) > 0:
		return cause{text: fmt.Sprintf("%q is neither a script with a first line such as #!/bin/sh nor a program for Linux", program), hint: "begin the script with #!/bin/sh, or build the program for Linux"}
	}
	return cause{}
}

// machines are the values of e_machine (ELF gABI, chapter 4) of servers and of
// programs built for them.
var machines = map[uint16]string{3: "386", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64", 21: "ppc64le", 22: "s390x"}

// judgeELF checks a program's machine and its loader.
func judgeELF(program string, head []byte, has func(string) bool) cause {
	if len(head) < 64 {
		return cause{text: fmt.Sprintf("%q is cut off", program), hint: "build it again"}
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if head[5] == 2 {
		order = binary.BigEndian
	}
	wide := head[4] == 2
	machine := machines[order.Uint16(head[18:])]
	at, size, count := uint64(order.Uint32(head[28:])), uint64(order.Uint16(head[42:])), int(order.Uint16(head[44:]))
	if wide {
		at, size, count = order.Uint64(head[32:]), uint64(order.Uint16(head[54:])), int(order.Uint16(head[56:]))
	}
	for i := range count {
		from := at + uint64(i)*size //nolint:gosec // not negative
		if size < 32 || from > uint64(len(head)) || from+size > uint64(len(head)) {
			break
		}
		h := head[from:]
		if order.Uint32(h) != 3 { // PT_INTERP
			continue
		}
		offset, length := uint64(order.Uint32(h[4:])), uint64(order.Uint32(h[16:]))
		if wide && size >= 56 {
			offset, length = order.Uint64(h[8:]), order.Uint64(h[32:])
		}
		if offset > uint64(len(head)) || length > uint64(len(head))-offset {
			break
		}
		loader := string(bytes.TrimRight(head[offset:offset+length], "\x00"))
		if loader == "" || has(loader) {
			break
		}
		c := cause{text: fmt.Sprintf("%q exists, but its loader, %s, is not in the image", program, plain(loader)), hint: "build it in the kind of image that it runs in, or without shared libraries (Go: CGO_ENABLED=0)"}
		switch {
		case strings.Contains(loader, "ld-musl"):
			c.hint = "it was built on Alpine (musl): " + c.hint
		case strings.Contains(loader, "ld-linux"):
			c.hint = "it was built for glibc, which Alpine does not have: " + c.hint
		}
		return c
	}
	if machine != "" {
		return cause{text: fmt.Sprintf("%q is a program for %s", program, machine), hint: "build it for the server's architecture"}
	}
	return cause{}
}

// plain is a path from a file in a printable form.
func plain(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` || len(s) > 100 {
		return q[:min(len(q), 100)]
	}
	return s
}
