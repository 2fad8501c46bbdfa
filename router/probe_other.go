//go:build !linux

package router

// alive, sound and untouched need Linux, where mesh runs; elsewhere only its client
// does.
func (c *conn) alive() bool { return true }

func (c *conn) sound() bool { return false }

func (c *conn) untouched() bool { return false }
