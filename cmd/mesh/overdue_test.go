package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
)

func TestEndOverdue_LogsWhatEveryGoroutineWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		ended := make(chan int)
		endOverdue(slog.New(slog.NewTextHandler(&log, nil)), endTime, func(status int) { ended <- status })
		if status := <-ended; status != 1 {
			t.Errorf("the exit status is %d, want 1", status)
		}
		if !strings.Contains(log.String(), "TestEndOverdue_LogsWhatEveryGoroutineWaitsFor") {
			t.Errorf("the log does not show this goroutine:\n%s", &log)
		}
	})
}
