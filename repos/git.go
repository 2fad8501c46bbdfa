package repos

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"mesh"
)

var gitProtocol = regexp.MustCompile(`^version=[012]$`)

// settings are passed to every git, so that no file in a repository can override them.
var settings = []string{
	"receive.fsckObjects=true",
	// Nobody can fix these faults in old histories, and they do no harm.
	"receive.fsck.zeroPaddedFilemode=ignore",
	"receive.fsck.missingSpaceBeforeDate=ignore",
	"receive.fsck.missingSpaceBeforeEmail=ignore",
	"receive.fsck.badTimezone=ignore",
	"receive.fsck.badDate=ignore",
	"receive.fsck.badDateOverflow=ignore",
	"receive.fsck.zeroPaddedDate=ignore",
	"receive.fsck.badName=ignore",
	"receive.fsck.badEmail=ignore",
	"receive.fsck.missingEmail=ignore",
	"receive.fsck.missingNameBeforeEmail=ignore",
	"receive.fsck.missingAuthor=ignore",
	"receive.fsck.multipleAuthors=ignore",
	"receive.fsck.missingCommitter=ignore",
	"receive.fsck.missingTaggerEntry=ignore",
	"receive.fsck.badTagName=ignore",
	// Keep packs: unpacking one costs three times as much for large blobs.
	"receive.unpackLimit=1",
	"core.bigFileThreshold=1m",
	"receive.shallowUpdate=true",
	"receive.advertisePushOptions=true",
	"receive.autogc=false",
	"gc.auto=0",
	"transfer.hideRefs=refs/mesh",
	"receive.denyDeleteCurrent=ignore", // the update hook refuses it, in fewer words
	"receive.denyCurrentBranch=ignore",
	"uploadpack.allowAnySHA1InWant=false",
	"uploadpack.allowFilter=true", // git clone --filter=blob:none
}

// Git prepares a git of the given service in the stack's repository, with a clean
// environment. Of the client's variables it keeps only the protocol version:
// GIT_CONFIG_* and similar variables would run code.
func (r *Repos) Git(ctx context.Context, stack mesh.StackName, client []string, service string, args ...string) *exec.Cmd {
	dir := r.path(stack)
	argv := []string{"-c", "safe.directory=" + dir, "-c", "core.hooksPath=" + r.Hooks, "-c", "receive.maxInputSize=" + strconv.FormatInt(r.MaxInput, 10)}
	for _, s := range settings {
		argv = append(argv, "-c", s)
	}
	switch service {
	case "receive-pack", "upload-pack":
		argv = append(append(argv, service), append(args, "--", dir)...)
	default:
		argv = append(append(argv, "-C", dir, service), args...)
	}
	cmd := exec.CommandContext(ctx, "git", argv...)
	cmd.Dir = r.home
	cmd.Env = r.env()
	for _, kv := range client {
		if k, v, _ := strings.Cut(kv, "="); k == "GIT_PROTOCOL" && gitProtocol.MatchString(v) {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	return cmd
}

// run runs a git command to completion and returns its output.
func (r *Repos) run(ctx context.Context, stack mesh.StackName, args ...string) (string, error) {
	cmd := r.Git(ctx, stack, nil, args[0], args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s in %s: %w: %s", args[0], stack, err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// env returns the whole environment of a git process.
func (r *Repos) env() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "HOME=" + r.home,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0",
		// Streams take no memory. A commit, a tree or a delta that unpacks to more than
		// this is not source code. git stops there by itself (wrapper.c,
		// memory_limit_check).
		"GIT_ALLOC_LIMIT=512m",
	}
}
