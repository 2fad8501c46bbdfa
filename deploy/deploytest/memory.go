package deploytest

import (
	"slices"
	"sync"

	"mesh"
)

// Memory keeps what a deployer has seen, as a file does.
type Memory struct {
	mu    sync.Mutex
	last  []mesh.Instance
	saves int
}

// Load returns what was saved last.
func (m *Memory) Load() ([]mesh.Instance, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.last), nil
}

// Save keeps it.
func (m *Memory) Save(all []mesh.Instance) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = slices.Clone(all)
	m.saves++
	return nil
}

// Saves is how often something was saved.
func (m *Memory) Saves() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saves
}
