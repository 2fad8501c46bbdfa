package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"go.etcd.io/bbolt"

	"mesh"
)

// A record is JSON, and its last field is its checksum:
//
//	{"v":1,"name":"blog", … ,"sum":"0123456789abcdef"}
//
// The sum is the first eight bytes of the SHA-256 of the record without that field.
// It finds errors that bbolt does not: bbolt only has checksums of its two meta
// pages. Records of an earlier mesh have none; they are read, and get one at the
// next start. An earlier mesh ignores the field.
const (
	sumHead = `,"sum":"`
	sumTail = `"}`
	sumLen  = len(sumHead) + 16 + len(sumTail)
)

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// addSum adds the checksum to a JSON object that has none.
func addSum(data []byte) []byte {
	sum := sumOf(data)
	return append(append(append(slices.Clone(data[:len(data)-1]), sumHead...), sum...), sumTail...)
}

var errSum = errors.New("its checksum does not match its content")

// takeSum returns the record without its checksum.
func takeSum(data []byte) (plain []byte, summed bool, err error) {
	n := len(data) - sumLen
	if n < 1 || string(data[n:n+len(sumHead)]) != sumHead || string(data[len(data)-len(sumTail):]) != sumTail {
		return data, false, nil
	}
	plain = append(slices.Clone(data[:n]), '}')
	if string(data[n+len(sumHead):len(data)-len(sumTail)]) != sumOf(plain) {
		return nil, true, errSum
	}
	return plain, true, nil
}

// form is what records are parsed into.
type form interface {
	// check returns what is wrong with it, given the key that it was found under.
	check(key []byte) error
}

// put stores v as JSON with a checksum.
func put(b *bbolt.Bucket, key []byte, v form) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put(key, addSum(data))
}

// parse reads a record. An unknown field or value is an error: a default instead
// would be a change that nobody asked for.
func parse(key, data []byte, f form) error {
	if data == nil {
		return errors.New("it is missing")
	}
	plain, _, err := takeSum(data)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(plain))
	d.DisallowUnknownFields()
	if err := d.Decode(f); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("it is followed by something else")
	}
	return f.check(key)
}

func checkVersion(v int) error {
	if v != 1 {
		return fmt.Errorf("it has version %d, but this mesh only supports version 1", v)
	}
	return nil
}

func checkKey(key []byte, name string) error {
	if string(key) != name {
		return fmt.Errorf("it belongs to %q", mesh.Clip(name, 60))
	}
	return nil
}

func checkNumber(key []byte, n int) error {
	if len(key) != 8 || n < 1 || fromNumber(key) != uint64(n) {
		return fmt.Errorf("it belongs to number %d", n)
	}
	return nil
}

func checkOneOf[T ~string](what, is string, known ...T) error {
	if is != "" && !slices.Contains(known, T(is)) {
		return fmt.Errorf("%s is %q, which is unknown to this version of mesh", what, mesh.Clip(is, 40))
	}
	return nil
}

// readable returns the records of a table, by key, except damaged ones, which the doctor
// reports. The table may be missing.
func readable[T any](ctx context.Context, s *Store, table []byte, read func(key, data []byte) (T, error)) (out []T, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		out = nil
		b := tx.Bucket(table)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			if r, err := read(k, v); err == nil {
				out = append(out, r)
			}
			return nil
		})
	})
	return out, err
}
