package store_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"mesh"
	"mesh/store"
)

// model is what the store should contain.
type model struct {
	stacks   map[mesh.StackName]mesh.Stack
	releases map[mesh.StackName][]mesh.Release
	deps     map[mesh.StackName][]mesh.Deployment
	keys     map[mesh.KeyName]string
}

func newModel() *model {
	return &model{map[mesh.StackName]mesh.Stack{}, map[mesh.StackName][]mesh.Release{}, map[mesh.StackName][]mesh.Deployment{}, map[mesh.KeyName]string{}}
}

func (m *model) owner(h mesh.Host) mesh.StackName {
	for n, s := range m.stacks {
		if slices.Contains(s.Domains, h) {
			return n
		}
	}
	return ""
}

// TestStore_AgreesWithAModel does random things to a store and to maps, reopens the
// store now and then, and compares.
func TestStore_AgreesWithAModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			againstModel(t, rand.New(rand.NewPCG(seed, 1)), 250)
		})
	}
}

func againstModel(t *testing.T, rnd *rand.Rand, steps int) {
	dir := t.TempDir()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(s.Check(), s.Close()); err != nil {
			t.Error(err)
		}
	}()
	m := newModel()
	names := []mesh.StackName{"a", "b", "c"}
	hosts := []mesh.Host{"h.example", "i.example", "j.example"}
	ctx := t.Context()
	for i := range steps {
		name := names[rnd.IntN(len(names))]
		st, exists := m.stacks[name]
		want := error(nil)
		if !exists {
			want = mesh.NoStack
		}
		var got error
		did := ""
		switch op := rnd.IntN(9); op {
		case 0:
			did = "create"
			if want = nil; exists {
				want = mesh.Conflict
			}
			if _, got = s.CreateStack(ctx, mesh.Stack{Name: name, Config: mesh.Config{}}, nil); want == nil {
				m.stacks[name] = mesh.Stack{Name: name, Config: mesh.Config{}, Formation: mesh.Formation{}}
			}
		case 1:
			if rnd.IntN(4) > 0 {
				continue
			}
			did = "destroy"
			got = s.DestroyStack(ctx, name)
			delete(m.stacks, name)
			delete(m.releases, name)
			delete(m.deps, name)
		case 2:
			did = "config"
			v := mesh.NewSecret(fmt.Sprint(rnd.IntN(5)))
			_, got = s.UpdateStack(ctx, name, func(st *mesh.Stack) error { st.Config["K"] = v; return nil })
			if exists {
				st.Config = maps.Clone(st.Config)
				st.Config["K"] = v
				m.stacks[name] = st
			}
		case 3:
			did = "domain"
			h := hosts[rnd.IntN(len(hosts))]
			if o := m.owner(h); exists && o != "" && o != name {
				want = mesh.Conflict
			}
			_, got = s.UpdateStack(ctx, name, func(st *mesh.Stack) error { st.Domains = []mesh.Host{h}; return nil })
			if want == nil {
				st.Domains = []mesh.Host{h}
				m.stacks[name] = st
			}
		case 4, 5:
			did = "begin"
			var d mesh.Deployment
			d, got = s.BeginDeployment(ctx, mesh.Deployment{Stack: name, Status: mesh.StatusRunning})
			if exists {
				st.LastNumber++
				m.stacks[name] = st
				if d.Number != st.LastNumber {
					t.Fatalf("step %d: deployment %s, want %s", i, d.Number, st.LastNumber)
				}
				m.deps[name] = append(m.deps[name], d)
			}
		case 6, 7:
			did = "commit"
			if len(m.deps[name]) == 0 {
				continue
			}
			k := rnd.IntN(len(m.deps[name]))
			d := m.deps[name][k]
			if d.Status.Final() {
				want = mesh.Conflict
			}
			r := mesh.Release{Stack: name, Number: st.Current + 1, Deployment: d.Number, Config: st.Config, Formation: mesh.Formation{"web": i}, Services: map[mesh.ServiceName]mesh.Service{}}
			_, got = s.Commit(ctx, d, &r, func(st *mesh.Stack) error { st.Stopped = !st.Stopped; return nil })
			if want == nil {
				st.Current, st.Stopped = r.Number, !st.Stopped
				m.stacks[name] = st
				m.releases[name] = append(m.releases[name], r)
				m.deps[name][k].Status, m.deps[name][k].Release = mesh.StatusLive, r.Number
			}
		case 8:
			did = "key"
			k := mesh.KeyName(name)
			if _, have := m.keys[k]; have {
				want, got = nil, s.RemoveKey(ctx, k)
				delete(m.keys, k)
			} else {
				want, got = nil, s.AddKey(ctx, mesh.Key{Name: k, Fingerprint: string(k)})
				m.keys[k] = string(k)
			}
		}
		if !errors.Is(got, want) || (want == nil) != (got == nil) {
			t.Fatalf("step %d, %s %s: got %v, want %v", i, did, name, got, want)
		}
		if rnd.IntN(40) == 0 {
			if err := errors.Join(s.Check(), s.Close()); err != nil {
				t.Fatal(err)
			}
			if s, err = store.Open(dir); err != nil {
				t.Fatal(err)
			}
			compare(t, s, m)
		}
	}
	compare(t, s, m)
}

func compare(t *testing.T, s *store.Store, m *model) {
	t.Helper()
	all := must(s.Stacks(t.Context()))(t)
	if len(all) != len(m.stacks) {
		t.Errorf("%d stacks, want %d", len(all), len(m.stacks))
	}
	for _, st := range all {
		if !sameStack(st, m.stacks[st.Name]) {
			t.Errorf("got  %+v\nwant %+v", st, m.stacks[st.Name])
		}
		rs := must(s.Releases(t.Context(), st.Name, 0))(t)
		slices.Reverse(rs)
		if !slices.EqualFunc(rs, m.releases[st.Name], sameRelease) {
			t.Errorf("releases of %s: got %+v\nwant %+v", st.Name, rs, m.releases[st.Name])
		}
		ds := must(s.Deployments(t.Context(), st.Name, 0))(t)
		slices.Reverse(ds)
		if !slices.Equal(ds, m.deps[st.Name]) {
			t.Errorf("deployments of %s: got %+v\nwant %+v", st.Name, ds, m.deps[st.Name])
		}
	}
	if keys := must(s.Keys(t.Context()))(t); len(keys) != len(m.keys) {
		t.Errorf("keys are %v, want %v", keys, m.keys)
	}
}
