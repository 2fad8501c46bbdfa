package receiver

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	gossh "golang.org/x/crypto/ssh"

	"mesh"
	"mesh/atomicfile"
)

// HostKey reads the server's key from path, or creates a permanent one: clients
// remember it, and a new key looks like an attack. The file is written completely or
// not at all.
func HostKey(path string) (gossh.Signer, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if err := makeHostKey(path); err != nil {
			return nil, fmt.Errorf("make the host key: %w", err)
		}
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, mesh.Errorf(mesh.Unavailable, "the host key cannot be read: %w", err)
	}
	key, err := gossh.ParsePrivateKey(data)
	if err != nil {
		return nil, mesh.Errorf(mesh.Unavailable, "the host key %s is damaged: %w", path, err).
			WithHint("restore it from a backup; if there is none, remove it and tell all users that the host key changes")
	}
	return key, nil
}

func makeHostKey(path string) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := gossh.MarshalPrivateKey(private, "mesh")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, pem.EncodeToMemory(block), 0o600)
}
