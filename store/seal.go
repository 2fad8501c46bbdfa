package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"mesh"
	"mesh/atomicfile"
)

// sealer encrypts config vars and passwords with AES-256-GCM under the key in DIR/secret.key. It
// protects a database that leaks without its directory: a copied file, a dump in a
// bug report, strings(1). Anyone who may read the directory may read both.
type sealer struct {
	aead cipher.AEAD
	mac  []byte
}

// close encrypts data under a fresh nonce. open needs the same context, which keeps
// one sealed thing from being taken for another.
func (s sealer) close(plain, context []byte) ([]byte, error) {
	nonce := make([]byte, s.aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return s.aead.Seal(nonce, nonce, plain, context), nil
}

// open is the reverse of close. Its errors begin with what; missing completes the one for
// data that is too short.
func (s sealer) open(sealed, context []byte, what, missing string) ([]byte, error) {
	n := s.aead.NonceSize()
	if len(sealed) < n {
		return nil, errors.New(what + " " + missing)
	}
	plain, err := s.aead.Open(nil, sealed[:n], sealed[n:], context)
	if err != nil {
		return nil, errors.New(what + " cannot be decrypted with secret.key")
	}
	return plain, nil
}

// openSealer reads the key, or makes one if the database is also new.
func openSealer(path string, fresh bool) (sealer, error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && fresh:
		key := make([]byte, 32)
		if _, err := rand.Read(key); err != nil {
			return sealer{}, err
		}
		data = []byte(hex.EncodeToString(key) + "\n")
		if err := atomicfile.Write(path, data, 0o600); err != nil {
			return sealer{}, fmt.Errorf("write %s: %w", path, err)
		}
	case errors.Is(err, os.ErrNotExist):
		return sealer{}, mesh.Errorf(mesh.Unavailable, "%s is missing: without it the config vars in mesh.db cannot be read", path).
			WithHint("restore it from the backup that mesh.db came from")
	case err != nil:
		return sealer{}, mesh.Errorf(mesh.Unavailable, "the key of the config vars cannot be read: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(key) != 32 {
		return sealer{}, mesh.Errorf(mesh.Unavailable, "%s is damaged: it must contain 64 hexadecimal digits", path).
			WithHint("restore it from the backup that mesh.db came from")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return sealer{}, err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("mesh config reference"))
	return sealer{aead: aead, mac: mac.Sum(nil)}, nil
}

// proof shows that a database and a key belong together, and that the database's id
// has not changed.
func (s sealer) proof(server string) []byte {
	mac := hmac.New(sha256.New, s.mac)
	mac.Write([]byte("mesh server " + server))
	return mac.Sum(nil)[:16]
}

// Key is a secret of this data directory for a purpose, derived from secret.key:
// always the same 32 bytes, which reveal nothing about it or about other keys.
func (s *Store) Key(purpose string) []byte {
	mac := hmac.New(sha256.New, s.seal.mac)
	mac.Write([]byte("mesh key for " + purpose))
	return mac.Sum(nil)
}

// putConfig stores a config once, however many releases use it, and returns its
// reference: a keyed hash, which reveals nothing about the values.
func (s *Store) putConfig(b *bbolt.Bucket, c mesh.Config) ([]byte, error) {
	if len(c) == 0 {
		return nil, nil
	}
	data, err := encodeConfig(c)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, s.seal.mac)
	mac.Write(data)
	ref := mac.Sum(nil)[:16]
	configs := b.Bucket(bucketConfigs)
	if configs.Get(ref) != nil {
		return ref, nil
	}
	sealed, err := s.seal.close(data, ref)
	if err != nil {
		return nil, err
	}
	return ref, configs.Put(ref, sealed)
}

// putServices stores the configs of services, and adds the references to their forms.
func (s *Store) putServices(b *bbolt.Bucket, forms map[string]serviceForm, config func(mesh.ServiceName) mesh.Config) (err error) {
	for name, f := range forms {
		if f.Config, err = s.putConfig(b, config(mesh.ServiceName(name))); err != nil {
			return err
		}
		forms[name] = f
	}
	return nil
}

// openServices calls set with the config of each service that has its own.
func (s *Store) openServices(b *bbolt.Bucket, forms map[string]serviceForm, set func(mesh.ServiceName, mesh.Config)) error {
	for _, name := range slices.Sorted(maps.Keys(forms)) {
		if len(forms[name].Config) == 0 {
			continue
		}
		cfg, err := s.openConfig(b, forms[name].Config)
		if err != nil {
			return fmt.Errorf("those of %s: %w", mesh.Clip(name, 60), err)
		}
		set(mesh.ServiceName(name), cfg)
	}
	return nil
}

// openConfig decrypts a config. Its seal is its checksum.
func (s *Store) openConfig(b *bbolt.Bucket, ref []byte) (mesh.Config, error) {
	if len(ref) == 0 {
		return mesh.Config{}, nil
	}
	sealed := b.Bucket(bucketConfigs).Get(ref)
	data, err := s.seal.open(sealed, ref, "they", "are missing")
	if err != nil {
		return nil, err
	}
	return decodeConfig(data)
}

// encodeConfig returns the values as JSON, sorted by name, as bytes: a value need not be
// valid UTF-8.
func encodeConfig(c mesh.Config) ([]byte, error) {
	plain := make(map[string][]byte, len(c))
	for k, v := range c {
		plain[k] = []byte(v.Reveal())
	}
	return json.Marshal(plain)
}

// decodeConfig is the reverse of encodeConfig.
func decodeConfig(data []byte) (mesh.Config, error) {
	var plain map[string][]byte
	if err := json.Unmarshal(data, &plain); err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	c := make(mesh.Config, len(plain))
	for k, v := range plain {
		c[k] = mesh.NewSecret(string(v))
	}
	return c, nil
}
