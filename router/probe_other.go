//go:build !linux

package router

// alive, sound and untouched need Linux, where mesh runs; on other systems only its
// client runs.
func (c *conn) alive() bool { return true }

func (c *conn) sound() bool { return false }

func (c *conn) untouched() bool { return false }
