package command

import (
	"context"

	"mesh"
)

var backupCommands = []*definition{
	{
		topic: "backup", args: "> FILE.tar", short: "Print a backup of the running server", access: mesh.AccessAdmin, exact: true, run: runBackup,
		long: "The tar contains the state, its key, the host key, the repositories, the recorded output and the\n" +
			"certificates: keep it as secret as the server. Images and volumes belong to the engine and are not in\n" +
			"it. While the server is stopped, `mesh restore FILE.tar` turns it into a data directory.",
	},
}

func runBackup(ctx context.Context, c *call) error {
	if c.TTY {
		return mesh.Errorf(mesh.Invalid, "a backup cannot be printed on a terminal").WithHint("write it to a file: ssh mesh backup > mesh.tar")
	}
	n, err := c.Server.Backup(ctx, c.Stdout)
	if err != nil {
		return err
	}
	c.tell("%d files\n", n)
	return nil
}
