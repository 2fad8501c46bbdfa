package access

// Clients counts the clients whose requests are remembered.
func (g *Gate) Clients() int {
	g.each.mu.Lock()
	defer g.each.mu.Unlock()
	return len(g.each.all)
}

// Block takes all turns, so that no check ends until release is called.
func (c *Checks) Block() (release func()) {
	for range cap(c.turns) {
		c.turns <- struct{}{}
	}
	return func() {
		for range cap(c.turns) {
			<-c.turns
		}
	}
}
