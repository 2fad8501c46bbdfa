package metrics

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"mesh"
	"mesh/atomicfile"
)

// leftName is the file with the requests that a process has served after its last sample:
// it serves for up to half a minute after another one has taken over, or after it was asked to
// stop.
const leftName = ".left"

// left is its content. Its form may change: the process that reads it has just started, and drops
// what it does not understand.
type left struct {
	At     time.Time
	Shares []mesh.Share
}

// Leave writes what has happened since the last sample to a file in the store's folder, for the
// process that measures next. Call it last, after Run.
func (s *Sampler) Leave() {
	out := left{At: s.Now()}
	for stack, rows := range s.traffic() {
		for name, m := range rows {
			if m.Requests() > 0 {
				out.Shares = append(out.Shares, mesh.Share{Stack: stack, Name: name, Measure: m})
			}
		}
	}
	if len(out.Shares) == 0 {
		return
	}
	b, err := json.Marshal(out)
	if err == nil {
		err = os.MkdirAll(s.Store.dir, 0o700)
	}
	if err == nil {
		err = atomicfile.Write(filepath.Join(s.Store.dir, leftName), b, 0o600)
	}
	if err != nil {
		s.Logger.Warn("the last requests are missing from the metrics", "err", err)
	}
}

// takeLeft adds what another process has left.
func (s *Sampler) takeLeft() {
	path := filepath.Join(s.Store.dir, leftName)
	b, err := os.ReadFile(path) //nolint:gosec // a path below our folder
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	var in left
	if err == nil {
		err = os.Remove(path) // before it is added: twice would be worse than not at all
	}
	if err == nil {
		err = json.Unmarshal(b, &in)
	}
	if err != nil {
		s.Logger.Warn("requests of the process before this one are missing from the metrics", "err", err)
		return
	}
	rows := stackRows{}
	for _, sh := range in.Shares {
		sh.InFlight, sh.Held = 0, 0
		rows.add(sh.Stack, sh.Name, sh.Measure)
	}
	for stack, of := range rows {
		s.Store.Add(stack, in.At, of)
	}
}
