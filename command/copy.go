package command

import (
	"context"
	"io"

	"mesh"
)

// Files copies files from and to running instances.
type Files interface {
	// CopyFrom writes a file or a folder as a tar stream.
	CopyFrom(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.InstanceName, file string, w io.Writer) error
	// CopyTo unpacks a tar stream into a folder, or as the file or folder to.
	CopyTo(ctx context.Context, stack mesh.StackName, by mesh.KeyName, name mesh.InstanceName, to string, content io.Reader) error
}

var copyCommands = []*definition{
	{
		topic: "ps", verb: "copy", args: "INSTANCE:PATH | - INSTANCE:PATH", short: "Copy files out of an instance or a detached run, or into it",
		long: "The client copies files: `mesh ps:copy web.1:/app/log.txt .` and `mesh ps:copy ./data web.1:/tmp/`. Over ssh it is a tar\n" +
			"stream: `ssh mesh ps:copy -a blog web.1:/app | tar x` and `tar c data | ssh mesh ps:copy -a blog - web.1:/tmp`. No\n" +
			"program in the image is needed. What is copied in, at most 1 GB at a time, belongs to root and is gone with the\n" +
			"instance: at the next release. sftp and scp work as well: `sftp blog@HOST:/web.1/app`.",
		stack: true, access: mesh.AccessDeploy, exact: true, min: 1, max: 2, run: runCopy,
	},
}

func runCopy(ctx context.Context, c *call) error {
	in := len(c.args) == 2
	if in && c.args[0] != "-" {
		return c.usage("files of your machine can only be copied by the client: mesh ps:copy SOURCE TARGET; over ssh, send a tar stream: tar c FILE | ssh mesh ps:copy -a %s - web.1:/path", c.stack.Name)
	}
	at, err := mesh.ParseInstancePath(c.args[len(c.args)-1])
	if err != nil {
		return err
	}
	name, err := c.instance(at.Instance)
	if err != nil {
		return err
	}
	if c.TTY {
		return c.usage("a tar stream does not go to a terminal; without -t: ssh mesh ps:copy -a %s %s | tar x", c.stack.Name, mesh.Visible(c.args[len(c.args)-1]))
	}
	if in {
		return c.Files.CopyTo(ctx, c.stack.Name, c.Key.Name, name, at.Path, c.Upload)
	}
	return c.Files.CopyFrom(ctx, c.stack.Name, c.Key.Name, name, at.Path, c.Stdout)
}
