package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"strings"

	"mesh"
)

// memory is a file that records where instances were last seen. It is written to a new
// file and renamed, but not synced: after a power cut nothing runs, so the content
// would be useless.
type memory struct{ path string }

type memoryForm struct {
	V         int             `json:"v"`
	Boot      string          `json:"boot"` // the boot ID of the kernel that the instances run on
	Instances []mesh.Instance `json:"instances"`
}

// boot identifies this boot of the machine's kernel: see random(4). It returns "" if
// unknown.
func boot() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// Load returns nothing if the file is from another machine or an earlier boot.
func (m memory) Load() ([]mesh.Instance, error) {
	data, err := os.ReadFile(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var f memoryForm
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f.V != 1 || f.Boot == "" || f.Boot != boot() {
		return nil, nil
	}
	return f.Instances, nil
}

// Save replaces the file.
func (m memory) Save(all []mesh.Instance) error {
	data, err := json.Marshal(memoryForm{V: 1, Boot: boot(), Instances: all})
	if err != nil {
		return err
	}
	if err := os.WriteFile(m.path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(m.path+".new", m.path)
}
