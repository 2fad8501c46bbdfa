//go:build race

package builder_test

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// BuildKit's frontend sets the same flag from two goroutines if a Dockerfile has two
// base images (v0.31.2, dockerfile/builder/resolvecache.go:30). This is harmless,
// but the race detector reports it: the tests with such Dockerfiles are built
// without it, in files that are marked at the top, and run in their own test binary.
func TestBuild_WithoutTheRaceDetector(t *testing.T) {
	names := []string{"TestBuild_Examples", "TestBuild_Frameworks", "TestBuild_StacksApart", "TestBuild_TimesInTheImage"}
	// They wait for the engine more than for this machine's processors. Without cgo and
	// paths, as the binary is built, what they link is compiled once.
	cmd := exec.CommandContext(t.Context(), "go", "test", "-v", "-count=1", "-timeout=30m", "-parallel=4", "-trimpath",
		"-run=^("+strings.Join(names, "|")+")$", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Only now: they take the longest, and begin before there is a slot for this test.
	t.Parallel()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, n := range names {
		if !strings.Contains(out.String(), "\n--- PASS: "+n+" ") {
			t.Errorf("%s was not run:\n%s", n, out.String())
		}
	}
}
