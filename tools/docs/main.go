// Command docs prints docs/commands.md from the command table, for "make docs".
package main

import (
	"os"

	"mesh/command"
)

func main() { command.Document(os.Stdout) }
