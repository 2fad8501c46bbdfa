package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mesh"
	"mesh/store"
)

func TestGlobalConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	is := func(s *store.Store, want mesh.Config) {
		t.Helper()
		if got := must(s.GlobalConfig(t.Context()))(t); !got.Equal(want) {
			t.Errorf("%v, want %v", got.Names(), want.Names())
		}
	}
	want := mesh.Config{"A": mesh.NewSecret("correct-horse-battery"), "BYTES": mesh.NewSecret("\xff\n")}
	closed(t, dir, func(s *store.Store) {
		is(s, nil)
		refused := errors.New("refused")
		if _, err := s.UpdateGlobalConfig(t.Context(), func(mesh.Config, error) (mesh.Config, error) { return want, refused }); !errors.Is(err, refused) {
			t.Errorf("got %v", err)
		}
		is(s, nil)
		must(s.UpdateGlobalConfig(t.Context(), func(old mesh.Config, err error) (mesh.Config, error) { return want.Over(old), err }))(t)
	})
	data := string(must(os.ReadFile(filepath.Join(dir, "mesh.db")))(t))
	for _, hush := range []string{"correct-horse-battery", "BYTES"} {
		if strings.Contains(data, hush) {
			t.Errorf("%q stands in the file", hush)
		}
	}
	closed(t, dir, func(s *store.Store) {
		is(s, want)
		must(s.UpdateGlobalConfig(t.Context(), func(mesh.Config, error) (mesh.Config, error) { return nil, nil }))(t)
		is(s, nil)
	})
}

// Vars that cannot be read are not taken for none, and can be given up.
func TestGlobalConfig_Damaged(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(string) string{
		"its checksum": func(v string) string { return strings.Replace(v, `"v":1`, `"v":2`, 1) },
		"its seal":     func(v string) string { return unsum(strings.Replace(v, `"config":"`, `"config":"AAAA`, 1)) },
		"empty":        func(v string) string { return unsum(strings.Replace(v, `"config":"`, `"config":"","_":"`, 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			populated(t, dir)
			edit(t, dir, func(path []string, v []byte) []byte {
				if slices.Equal(path, []string{"meta", "global"}) {
					return []byte(change(string(v)))
				}
				return v
			})
			s := open(t, dir)
			if _, err := s.GlobalConfig(t.Context()); !errors.Is(err, mesh.Damaged) {
				t.Errorf("got %v", err)
			}
			if found := s.Damaged(); len(found) != 1 || found[0].Stack != "" || !strings.Contains(found[0].What, "all stacks") {
				t.Errorf("found %+v", found)
			}
			must(s.UpdateGlobalConfig(t.Context(), func(_ mesh.Config, err error) (mesh.Config, error) {
				if !errors.Is(err, mesh.Damaged) {
					t.Errorf("got %v", err)
				}
				return mesh.Config{"B": mesh.NewSecret("1")}, nil
			}))(t)
			if got := must(s.GlobalConfig(t.Context()))(t); len(got) != 1 {
				t.Errorf("got %v", got.Names())
			}
			if err := s.Check(); err != nil || len(s.Damaged()) != 0 {
				t.Errorf("%v, found %+v", err, s.Damaged())
			}
		})
	}
}
