//go:build !linux

package builder

// On other systems the engine runs in its own virtual machine.

func diskFree(string) (int64, bool) { return 0, false }

func diskSize(string) int64 { return 0 }
