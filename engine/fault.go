package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	docker "github.com/docker/docker/client"

	"mesh"
)

// Fault turns an error of the engine at host into a kind that callers can test for:
// Cancelled if ctx has ended, Unavailable if the engine is down or its disk full. Errors
// for people stay what they are, and nil stays nil. doing is what was tried, in a few
// words.
func Fault(ctx context.Context, host, doing string, err error) error {
	var known *mesh.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return &mesh.Error{Kind: mesh.Cancelled, Text: doing + ": cancelled", Err: context.Cause(ctx)}
	case errors.As(err, &known):
		return err
	case Away(err):
		return Unreachable(host, fmt.Errorf("%s: %w", doing, err))
	case strings.Contains(err.Error(), noSpace):
		return DiskFull(fmt.Errorf("%s: %w", doing, err))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// noSpace is how the engine, and most programs in a build, report ENOSPC.
const noSpace = "no space left on device"

// Away reports whether the connection to the engine failed, not the request.
func Away(err error) bool {
	return docker.IsErrConnectionFailed(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNREFUSED)
}

// Unreachable is the error of an engine that does not answer at host.
func Unreachable(host string, err error) *mesh.Error {
	return &mesh.Error{
		Kind: mesh.Unavailable, Text: "the Docker Engine does not answer at " + host,
		Hint: "start it on the server, e.g. with: systemctl start docker", Err: err,
	}
}

// DiskFull is the error of an engine that has no space for images or containers.
func DiskFull(err error) *mesh.Error {
	return &mesh.Error{
		Kind: mesh.Unavailable, Text: "the server's disk is full",
		Hint: "free disk space on the server, e.g. with: docker system df; docker builder prune", Err: err,
	}
}
