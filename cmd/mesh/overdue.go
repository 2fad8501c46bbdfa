package main

import (
	"log/slog"
	"os"
	"runtime/pprof"
	"strings"
	"time"
)

// endTime is how long a process may take to end once its connections have been asked to. Each
// thing it waits for has a shorter limit.
const endTime = 2*partTime + time.Minute

// endOverdue ends the process if it still exists after limit. The store is closed by then,
// and another process may wait for this one. The log gets what every goroutine waits for,
// because such an end is a fault of mesh.
func endOverdue(log *slog.Logger, limit time.Duration, exit func(status int)) {
	time.AfterFunc(limit, func() {
		var stacks strings.Builder
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		log.Error("this process did not end in time; it is ended now", "pid", os.Getpid(), "limit", limit, "goroutines", stacks.String())
		exit(1)
	})
}
