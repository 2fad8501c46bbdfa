package journal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"mesh"
	"mesh/journal"
)

// Lines are written in the background. When Run returns, they are on disk.
func ExampleJournal() {
	dir, err := os.MkdirTemp("", "journal")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	j, err := journal.Open(dir, journal.Options{Source: "mesh"})
	if err != nil {
		panic(err)
	}
	j.Keep("blog")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	j.Add("blog", func(b []byte) []byte { return append(journal.AppendStart(b, at, "deploy"), "#1 is live as v1"...) })

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := j.Run(ctx); !errors.Is(err, context.Canceled) {
		panic(err)
	}
	err = j.Logs(context.Background(), mesh.LogQuery{Stack: "blog", Lines: -1}, func(l mesh.LogLine) error {
		fmt.Println(l.At.Format(time.TimeOnly), l.Source, l.Name, l.Text)
		return nil
	})
	if err != nil {
		panic(err)
	}
	// Output:
	// 03:04:05 mesh deploy #1 is live as v1
}
