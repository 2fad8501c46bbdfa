// Command docs prints docs/commands.md, or with the argument "words" docs/words.md, from
// the tables of the package command, for "make docs".
package main

import (
	"os"

	"mesh/command"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "words" {
		command.DocumentWords(os.Stdout)
		return
	}
	command.Document(os.Stdout)
}
