package runner_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"

	"mesh"
	"mesh/runner"
)

// programs is an image with busybox and programs in /app that cannot be started.
func programs(t *testing.T) string {
	t.Helper()
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	dash := read("/bin/dash") // needs a loader
	arm := []byte(read("/bin/busybox")[:4096])
	arm[18], arm[19] = 183, 0 // EM_AARCH64
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(name string, mode int64, content string) {
		_ = w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg})
		_, _ = io.WriteString(w, content)
	}
	add("bin/busybox", 0o755, read("/bin/busybox"))
	for _, l := range []string{"bin/sh", "bin/ls", "usr/bin/env"} {
		_ = w.WriteHeader(&tar.Header{Name: l, Linkname: "/bin/busybox", Mode: 0o777, Typeflag: tar.TypeSymlink})
	}
	add("app/crlf.sh", 0o755, "#!/bin/sh\r\nexit 0\r\n")
	add("app/bash.sh", 0o755, "#! /bin/bash -e\nexit 0\n")
	add("app/env.sh", 0o755, "#!/usr/bin/env ruby\nexit 0\n")
	add("app/envcrlf.sh", 0o755, "#!/usr/bin/env sh\r\nexit 0\r\n")
	add("app/plain.sh", 0o644, "#!/bin/sh\nexit 0\n")
	add("app/glibc", 0o755, dash)
	add("app/arm", 0o755, string(arm))
	add("app/dir/x", 0o644, "x")
	_ = w.WriteHeader(&tar.Header{Name: "bin/tool", Linkname: "/app/crlf.sh", Mode: 0o777, Typeflag: tar.TypeSymlink})
	_ = w.Close()
	ref := "mesh-test/" + run + ":programs"
	rc, err := cli.ImageImport(t.Context(), image.ImportSource{Source: &buf, SourceName: "-"}, ref,
		image.ImportOptions{Changes: []string{"LABEL " + testLabel + "=" + run, "WORKDIR /app", "ENV PATH=/bin:/usr/bin", `CMD ["/bin/sh"]`}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, rc)
	t.Cleanup(func() { _, _ = cli.ImageRemove(context.Background(), ref, image.RemoveOptions{Force: true}) })
	in, ierr := cli.ImageInspect(t.Context(), ref)
	if err := errors.Join(err, ierr, rc.Close()); err != nil {
		t.Fatal(err)
	}
	return in.ID
}

// The error says why a program cannot be started, instead of the kernel's "no such
// file", in a check, in a shell, and in a one-off command.
func TestCheck_WhyAProgramCannotStart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	img := programs(t)
	for _, c := range []struct {
		program, text, hint string
		shell               bool // a shell says so too
	}{
		{"./crlf.sh", `"./crlf.sh" exists, but its lines end in CR LF: its interpreter would be "/bin/sh\r"`, "eol=lf", true},
		{"/app/crlf.sh", `"/app/crlf.sh" exists, but its lines end in CR LF`, "eol=lf", true},
		{"tool", `"tool" exists, but its lines end in CR LF`, "eol=lf", true},
		{"./bash.sh", `"./bash.sh" exists, but its interpreter, /bin/bash, is not in the image`, "install bash", true},
		{"./env.sh", "the interpreter of a script, ruby, is not in the image", "install ruby", true},
		{"./envcrlf.sh", `the first line of a script names "sh\r": it ends in CR`, "eol=lf", true},
		{"./plain.sh", `"./plain.sh" is not executable`, "chmod", true},
		{"./glibc", `"./glibc" exists, but its loader, /lib64/ld-linux-x86-64.so.2, is not in the image`, "glibc", true},
		{"./arm", `"./arm" is a program for arm64`, "architecture", true},
		{"./dir", `"./dir" is a folder`, "correct the command", true},
		{"./missing.sh", `the image has no program "./missing.sh"`, "correct the command", true},
		{"missing", `the image has no program "missing"`, "correct the command", true},
	} {
		for _, shell := range []bool{false, true} {
			if shell && !c.shell {
				continue
			}
			s := b.spec("web")
			s.Image, s.Process = img, mesh.Process{Entrypoint: []string{c.program}}
			if shell {
				s.Process = mesh.Process{Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"exec " + c.program}}
			}
			in := b.start(s)
			_, err := b.Check(t.Context(), in, mesh.Check{HTTP: true}, nil)
			var e *mesh.Error
			if !errors.As(err, &e) || !strings.Contains(e.Text, c.text) || !strings.Contains(e.Hint, c.hint) {
				t.Errorf("%s (in a shell: %v): %v\nhint %q\n%q", c.program, shell, err, e.Hint, e.Output)
			}
			if err := b.Stop(t.Context(), in.ID, time.Second); err != nil {
				t.Error(err)
			}
			o := b.oneOff()
			var out strings.Builder
			o.Image, o.Process, o.Stdout, o.Stderr = img, s.Process, io.Discard, &out
			if _, err := b.RunOneOff(t.Context(), o); err != nil || !strings.Contains(out.String(), "mesh: "+c.text) {
				t.Errorf("%s (in a shell: %v): a one-off printed %q, %v", c.program, shell, out.String(), err)
			}
		}
	}
	// A command that ends with such a code by itself is not explained.
	s := b.spec("web")
	s.Image, s.Process = img, mesh.Process{Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"echo config: not found; exit 3"}}
	in := b.start(s)
	var e *mesh.Error
	if _, err := b.Check(t.Context(), in, mesh.Check{HTTP: true}, nil); !errors.As(err, &e) || e.Text != "web.1 exited with code 3 before it answered on port 8080" {
		t.Errorf("got %v", err)
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	none := func(string) bool { return false }
	for _, c := range []struct {
		head string
		want string
	}{
		{"", `"x" is empty`},
		{"\xef\xbb\xbf#!/bin/sh\n", "byte order mark"},
		{"MZ\x90", "neither a script"},
		{"echo hi\n", "neither a script"},
		{"#!/bin/sh", "its interpreter, /bin/sh, is not"},
		{"#!\t/usr/bin/env node\n", "its interpreter, /usr/bin/env, is not"},
		{"#!/bin/sh\r\n", `its interpreter would be "/bin/sh\r"`},
		{"#!/bin/sh -e\r\n", `its interpreter would be "/bin/sh -e\r"`},
		{"#!\n", ""},
		{"\x7fELF\x02\x01", "cut off"},
		{"\x7fELF\x02\x01" + strings.Repeat("\xff", 80), ""},
		{"\x7fELF\x01\x02" + strings.Repeat("\x00", 12) + "\x00\x15" + strings.Repeat("\x00", 60), "is a program for ppc64le"},
	} {
		if got := runner.Judge("x", 0o755, []byte(c.head), none); !strings.Contains(got, c.want) || got != "" && c.want == "" {
			t.Errorf("%q: %q, want %q", c.head, got, c.want)
		}
	}
}

func FuzzJudge(f *testing.F) {
	f.Add([]byte("#!/bin/sh\r\n"))
	f.Add([]byte("\x7fELF\x02\x01" + strings.Repeat("\x00", 100)))
	f.Fuzz(func(t *testing.T, head []byte) {
		for _, is := range []bool{true, false} {
			if got := runner.Judge("x", 0o755, head, func(string) bool { return is }); strings.ContainsAny(got, "\n\x1b") {
				t.Errorf("%q: %q", head, got)
			}
		}
	})
}

// Missing users and folders in an image are for its author to fix: they were
// reported as faults of mesh itself.
func TestStart_WhyAnImageCannotStart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"bin/busybox": string(busybox), "file": "x", "etc/passwd": "root:x:0:0::/:/bin/sh\n", "etc/group": "root:x:0:\n"} {
		_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg})
		_, _ = io.WriteString(w, content)
	}
	_ = w.Close()
	for i, c := range []struct{ change, text, hint string }{
		{"USER nosuch", `the image has no user "nosuch", but its USER names it`, "RUN useradd nosuch"},
		{"USER root:nosuch", `the image has no group "nosuch", but its USER names it`, "RUN groupadd nosuch"},
		{"USER 70000000000", "the number in the image's USER is out of range", "2147483647"},
		{"WORKDIR /file", `the image's WORKDIR "/file" is not a folder`, "correct WORKDIR"},
	} {
		ref := fmt.Sprintf("mesh-test/%s:unstartable%d", run, i)
		rc, err := cli.ImageImport(t.Context(), image.ImportSource{Source: bytes.NewReader(buf.Bytes()), SourceName: "-"}, ref,
			image.ImportOptions{Changes: []string{"LABEL " + testLabel + "=" + run, c.change}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, rc)
		t.Cleanup(func() { _, _ = cli.ImageRemove(context.Background(), ref, image.RemoveOptions{Force: true}) })
		if err := errors.Join(err, rc.Close()); err != nil {
			t.Fatal(err)
		}
		s := b.spec("web")
		s.Image, s.Process = ref, mesh.Process{Entrypoint: []string{"/bin/busybox", "true"}}
		_, err = b.Start(t.Context(), s)
		var e *mesh.Error
		if !errors.As(err, &e) || e.Kind != mesh.Failed || !strings.Contains(e.Text, "web.1 cannot start: ") || !strings.Contains(e.Text, c.text) || !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%s: %v", c.change, err)
		}
		o := b.oneOff()
		o.Image, o.Process, o.Stdout, o.Stderr = ref, s.Process, io.Discard, io.Discard
		if _, err := b.RunOneOff(t.Context(), o); !errors.As(err, &e) || !strings.Contains(e.Text, c.text) {
			t.Errorf("%s: a one-off: %v", c.change, err)
		}
	}
}
