package command

import (
	"context"

	"mesh"
)

var backupCommands = []*definition{
	{
		topic: "backup", args: "> FILE.tar", short: "Print a backup of the whole server, taken while it runs", access: mesh.AccessAdmin, exact: true, run: runBackup,
		long: "It has the state, the key that unseals it, the host key, the repositories, the recorded output and the\n" +
			"certificates, as a tar: keep it as secret as the server. Images and volumes are the engine's and not in\n" +
			"it. `mesh restore FILE.tar` on a server that is stopped makes a data directory out of it.",
	},
}

func runBackup(ctx context.Context, c *call) error {
	if c.TTY {
		return mesh.Errorf(mesh.Invalid, "a backup is no text for a terminal").WithHint("send it to a file: ssh mesh backup > mesh.tar")
	}
	n, err := c.Server.Backup(ctx, c.Stdout)
	if err != nil {
		return err
	}
	c.tell("%d files\n", n)
	return nil
}
