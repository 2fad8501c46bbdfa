package deploytest

import (
	"slices"
	"sync"

	"mesh"
)

// Memory is a fleet.Memory without a file.
type Memory struct {
	mu    sync.Mutex
	last  []mesh.Instance
	saves int
}

// Load returns the instances saved last.
func (m *Memory) Load() ([]mesh.Instance, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.last), nil
}

// Save saves the instances.
func (m *Memory) Save(all []mesh.Instance) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = slices.Clone(all)
	m.saves++
	return nil
}

// Saves returns the number of saves.
func (m *Memory) Saves() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.saves
}
