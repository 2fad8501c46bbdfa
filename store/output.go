package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"mesh"
)

func (s *Store) outputDir(stack mesh.StackName) string {
	return filepath.Join(s.dir, "logs", string(stack))
}

func (s *Store) outputPath(stack mesh.StackName, n mesh.DeploymentNumber) string {
	return filepath.Join(s.outputDir(stack), fmt.Sprintf("deployment-%d.log", int(n)))
}

// Output opens the output of a deployment for writing; it must be new. A number is
// used once in the life of a stack, so anything there is from an earlier stack.
// ReadOutput sees what is written at once; Close syncs it to disk.
func (s *Store) Output(stack mesh.StackName, n mesh.DeploymentNumber) (io.WriteCloser, error) {
	if err := os.MkdirAll(s.outputDir(stack), 0o700); err != nil {
		return nil, noRoom(err)
	}
	f, err := os.OpenFile(s.outputPath(stack, n), os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, noRoom(err)
	}
	return output{f}, nil
}

type output struct{ *os.File }

func (o output) Close() error { return errors.Join(o.Sync(), o.File.Close()) }

// ReadOutput opens the recorded output of a deployment. It is empty for a deployment
// that printed nothing.
func (s *Store) ReadOutput(stack mesh.StackName, n mesh.DeploymentNumber) (io.ReadCloser, error) {
	f, err := os.Open(s.outputPath(stack, n))
	if errors.Is(err, os.ErrNotExist) {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return f, err
}
