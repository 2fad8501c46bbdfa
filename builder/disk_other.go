//go:build !linux

package builder

// The engine of another system runs in a machine of its own.

func diskFree(string) (int64, bool) { return 0, false }

func diskSize(string) int64 { return 0 }
