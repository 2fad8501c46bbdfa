//go:build !linux

package receiver

// expendable does nothing: oom_score_adj exists only on Linux.
func expendable(int) {}
