package metrics_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mesh"
	"mesh/metrics"
)

// noon is when the tests begin: at the start of a step of every resolution.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is the tests' time.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

// kept is a store and its clock.
type kept struct {
	*metrics.Store
	*clock
	t   *testing.T
	dir string
	log *strings.Builder
}

func open(t *testing.T, dir string, c *clock) *kept {
	t.Helper()
	k := &kept{clock: c, t: t, dir: dir, log: &strings.Builder{}}
	k.Store = metrics.Open(dir, metrics.Options{Now: c.Now, Logger: slog.New(slog.NewTextHandler(k.log, nil))})
	k.Keep("shop")
	return k
}

func web(n int) mesh.InstanceName { return mesh.InstanceName{Service: mesh.Web, Slot: n} }

// step adds n requests of web.1 and a second of CPU, and lets a step pass.
func (k *kept) step(n uint64) {
	m := mesh.Measure{Samples: 1, Status: [6]uint64{2: n}, CPU: time.Second, Memory: 64 << 20}
	m.Latency[mesh.LatencyClass(20*time.Millisecond)] = n
	k.Add("shop", k.now, map[mesh.InstanceName]mesh.Measure{web(1): m})
	k.now = k.now.Add(mesh.MeasureStep)
}

// ask returns the total of a span that ends now, and the answer.
func (k *kept) ask(span time.Duration, points int) (mesh.Measure, mesh.Measures) {
	k.t.Helper()
	got, err := k.Measures(k.t.Context(), mesh.MeasureQuery{Stack: "shop", Since: k.now.Add(-span), Until: k.now, Points: points})
	if err != nil {
		k.t.Fatal(err)
	}
	if len(got.Rows) == 0 {
		return mesh.Measure{}, got
	}
	return got.Rows[0].Total(), got
}

// size returns the bytes in all files.
func (k *kept) size() (n int64) {
	_ = filepath.WalkDir(k.dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if st, err := d.Info(); err == nil {
				n += st.Size()
			}
		}
		return nil
	})
	return n
}

func TestStore_AnswersFromEachResolution(t *testing.T) {
	t.Parallel()
	k := open(t, t.TempDir(), &clock{noon})
	const hours = 30
	for range hours * 360 {
		k.step(5)
	}
	hour, got := k.ask(time.Hour, 400)
	if hour.Requests() != 360*5 || got.Step != 10*time.Second || hour.Rate() != .5 || hour.Cores() != .1 || hour.Memory != 64<<20 || hour.Latency.Quantile(95) != 20*time.Millisecond {
		t.Errorf("an hour: step %s, %+v", got.Step, hour)
	}
	day, got := k.ask(24*time.Hour, 100)
	if day.Requests() != 24*360*5 || got.Step != 15*time.Minute || len(got.Rows[0].Points) != 96 {
		t.Errorf("a day: step %s, %d points, %d requests", got.Step, len(got.Rows[0].Points), day.Requests())
	}
	// The first hours are in no file but the coarse ones.
	long, got := k.ask(300*24*time.Hour, 300*24)
	if long.Requests() != hours*360*5 || got.Step != time.Hour {
		t.Errorf("all: step %s, %d requests of %d", got.Step, long.Requests(), hours*360*5)
	}
	week, _ := k.ask(7*24*time.Hour, 1000)
	if week.Requests() != hours*360*5 || week.Rate() != .5 {
		t.Errorf("a week: %d requests of %d, %f per second", week.Requests(), hours*360*5, week.Rate())
	}
	if n := k.log.String(); n != "" {
		t.Error(n)
	}
}

// A stack that is new at an odd time: what is in a fine resolution is not taken from a
// coarser one as well.
func TestStore_CountsOnceWhateverTheSpan(t *testing.T) {
	t.Parallel()
	k := open(t, t.TempDir(), &clock{noon.Add(7*time.Minute + 20*time.Second)})
	for i := range 8000 {
		k.step(1)
		if i%661 != 0 && i > 10 {
			continue
		}
		for _, span := range []time.Duration{time.Hour, 6 * time.Hour, 24 * time.Hour, 30 * time.Hour, 13 * 24 * time.Hour, 15 * 24 * time.Hour, 300 * 24 * time.Hour} {
			for _, points := range []int{60, 20000} {
				got, _ := k.ask(span, points)
				want := min(uint64(i+1), uint64(span/mesh.MeasureStep))
				if n := got.Requests(); n > want+90 || n < min(want, uint64(i+1)) { // the first interval may begin before the span
					t.Fatalf("after %d: %d requests in %s of %d, at %d points", i+1, n, span, want, points)
				}
			}
		}
	}
}

func TestStore_RestartsAndKillsLoseNothing(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), &clock{noon}
	total := uint64(0)
	for i := range 100 {
		k := open(t, dir, c) // the one before it just ends, as after a kill
		if i%2 == 0 {
			k.Release() // before anything was added
		}
		for range 7 * (1 + i%11) {
			k.step(3)
			total += 3
		}
		if i%3 == 0 {
			k.Release()
		}
	}
	k := open(t, dir, c)
	k.step(3)
	total += 3
	for _, span := range []time.Duration{20 * time.Hour, 10 * 24 * time.Hour, 200 * 24 * time.Hour} {
		if got, _ := k.ask(span, 5000); got.Requests() != total || got.Restarts != 0 {
			t.Errorf("in %s: %d requests of %d", span, got.Requests(), total)
		}
	}
	// Another process reads while this one writes.
	other := metrics.Open(dir, metrics.Options{Now: c.Now})
	got, err := other.Measures(t.Context(), mesh.MeasureQuery{Stack: "shop", Since: c.now.Add(-20 * time.Hour), Until: c.now})
	if err != nil || len(got.Rows) != 1 {
		t.Fatal(got, err)
	}
	if sum := got.Rows[0].Total(); sum.Requests() != total {
		t.Errorf("another process sees %d requests of %d", sum.Requests(), total)
	}
}

func TestStore_AClockThatJumps(t *testing.T) {
	t.Parallel()
	k := open(t, t.TempDir(), &clock{noon})
	for range 720 {
		k.step(1)
	}
	k.now = k.now.Add(40 * 365 * 24 * time.Hour) // a battery, or a typing error
	for range 30 {
		k.step(1)
	}
	k.now = noon.Add(2*time.Hour - 30*time.Minute) // back, and half an hour too far
	for range 180 + 720 {
		k.step(1)
	}
	// The half hour has happened twice, by this clock. What came in 2066 is not now.
	if got, _ := k.ask(5*time.Hour, 2000); got.Requests() != 720+180+720 {
		t.Errorf("%d requests", got.Requests())
	}
	if got, _ := k.ask(10*24*time.Hour, 2000); got.Requests() < 720+720 {
		t.Errorf("of the last days: %d requests", got.Requests())
	}
	k.Release()
	k.step(1)
	if got, _ := k.ask(5*time.Hour, 2000); got.Requests() != 720+180+720+1 {
		t.Errorf("after a restart: %d requests", got.Requests())
	}
	if n := k.log.String(); n != "" {
		t.Error(n)
	}
}

func TestStore_DamagedFiles(t *testing.T) {
	t.Parallel()
	const steps = 10 * 360
	for name, harm := range map[string]func(b []byte) []byte{
		"cut off":             func(b []byte) []byte { return b[:len(b)/2+17] },
		"a flipped bit":       func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"a flipped header":    func(b []byte) []byte { b[9] ^= 4; return b },
		"a hole of zeroes":    func(b []byte) []byte { clear(b[len(b)/3 : len(b)/2]); return b },
		"another end":         func(b []byte) []byte { return append(b, "no such thing"...) },
		"garbage before":      func(b []byte) []byte { return append([]byte("no such thing"), b...) },
		"nothing of it":       func(b []byte) []byte { clear(b); return b },
		"twice":               func(b []byte) []byte { return append(b, b...) },
		"a length of 4 GB":    func(b []byte) []byte { copy(b[40:], "\xff\xff\xff\xff"); return b },
		"empty":               func(b []byte) []byte { return b[:0] },
		"longer than allowed": func(b []byte) []byte { return append(b, make([]byte, 20<<20)...) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, c := t.TempDir(), &clock{noon}
			k := open(t, dir, c)
			for range steps {
				k.step(2)
			}
			k.Release()
			path := filepath.Join(dir, "shop", "10s")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, harm(b), 0o600); err != nil {
				t.Fatal(err)
			}
			got, _ := k.ask(11*time.Hour, 5000)
			if got.Requests() > steps*2 {
				t.Errorf("%d requests of %d before the next step", got.Requests(), steps*2)
			}
			k = open(t, dir, c)
			for range 400 {
				k.step(2)
			}
			if got, _ := k.ask(400*mesh.MeasureStep, 5000); got.Requests() != 800 {
				t.Errorf("%d requests of 800 since", got.Requests())
			}
			// The other resolutions have it.
			if got, _ := k.ask(5*24*time.Hour, 10000); got.Requests() < steps*2*9/10+800 || got.Requests() > steps*2+800 {
				t.Errorf("%d requests of %d in all", got.Requests(), steps*2+800)
			}
		})
	}
}

func TestStore_AFileThatIsNoneAndAFolderThatCannotBeMade(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), &clock{noon}
	if err := os.MkdirAll(filepath.Join(dir, "shop", "1m"), 0o700); err != nil {
		t.Fatal(err)
	}
	k := open(t, dir, c)
	k.step(1)
	k.step(1)
	if got, _ := k.ask(time.Hour, 0); got.Requests() != 2 || !strings.Contains(k.log.String(), "moved aside") {
		t.Errorf("%d requests; log %s", got.Requests(), k.log)
	}
	// The folder is a file.
	file := filepath.Join(t.TempDir(), "metrics")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k = open(t, file, c)
	for range 50 {
		k.step(1)
	}
	if n := strings.Count(k.log.String(), "metrics not written"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, k.log)
	}
	if got, _ := k.ask(time.Hour, 0); got.Samples != 0 {
		t.Errorf("%+v", got)
	}
}

func TestStore_FullDisk(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), &clock{noon}
	k := open(t, dir, c)
	for range 100 {
		k.step(1)
	}
	path := filepath.Join(dir, "shop", "10s")
	aside := path + ".real"
	if err := errors.Join(os.Rename(path, aside), os.Symlink("/dev/full", path)); err != nil {
		t.Fatal(err)
	}
	for range 60 {
		k.step(1)
	}
	if n := strings.Count(k.log.String(), "metrics not written"); n != 1 || !strings.Contains(k.log.String(), "no space left") {
		t.Errorf("logged %d times:\n%s", n, k.log)
	}
	if err := os.Rename(aside, path); err != nil { // in the place of the link
		t.Fatal(err)
	}
	for range 100 {
		k.step(1)
	}
	// The ten minutes waited in memory.
	if got, _ := k.ask(time.Hour, 1000); got.Requests() != 260 {
		t.Errorf("%d requests of 260", got.Requests())
	}
}

func TestStore_RenamesAndForgets(t *testing.T) {
	t.Parallel()
	dir, c := t.TempDir(), &clock{noon}
	k := open(t, dir, c)
	for range 30 {
		k.step(1)
	}
	k.Keep("store")
	k.Add("store", c.now, map[mesh.InstanceName]mesh.Measure{web(1): {Samples: 1, Status: [6]uint64{2: 9}}})
	k.Rename("shop", "store")
	k.Forget("shop") // as the end of its routes does
	k.Rename("shop", "store")
	k.step(100) // late, under the old name
	if _, err := os.Stat(filepath.Join(dir, "shop")); err == nil {
		t.Error("the old folder is there")
	}
	k.Add("store", c.now, map[mesh.InstanceName]mesh.Measure{web(1): {Samples: 1, Status: [6]uint64{2: 1}}})
	c.now = c.now.Add(time.Second)
	got, err := k.Measures(t.Context(), mesh.MeasureQuery{Stack: "store", Since: noon, Until: c.now})
	if err != nil || len(got.Rows) != 1 {
		t.Fatal(got, err)
	}
	if sum := got.Rows[0].Total(); sum.Requests() != 31 {
		t.Errorf("%d requests of 31", sum.Requests())
	}
	k.Forget("store")
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestStore_ServicesAndInstances(t *testing.T) {
	t.Parallel()
	k := open(t, t.TempDir(), &clock{noon})
	for range 60 {
		k.Add("shop", k.now, map[mesh.InstanceName]mesh.Measure{
			web(1):                       {Samples: 1, Status: [6]uint64{2: 10}, Memory: 1 << 20},
			web(2):                       {Samples: 1, Status: [6]uint64{2: 20, 5: 1}, Memory: 2 << 20},
			web(0):                       {Samples: 1, Status: [6]uint64{5: 2}, Held: 4},
			{Service: "worker", Slot: 1}: {Samples: 1, CPU: 5 * time.Second},
		})
		k.now = k.now.Add(mesh.MeasureStep)
	}
	rows := func(by mesh.MeasureBy) string {
		got, err := k.Measures(t.Context(), mesh.MeasureQuery{Stack: "shop", Since: noon, Until: k.now, By: by})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, r := range got.Rows {
			m := r.Total()
			out = append(out, fmt.Sprintf("%s %d requests, %d errors, %d held, %d MB, %.1f cores", r.Name, m.Requests(), m.Status[5], m.Held, m.Memory>>20, m.Cores()))
		}
		return strings.Join(out, "; ")
	}
	for by, want := range map[mesh.MeasureBy]string{
		mesh.ByStack:    ".0 1980 requests, 180 errors, 4 held, 3 MB, 0.5 cores",
		mesh.ByService:  "web.0 1980 requests, 180 errors, 4 held, 3 MB, 0.0 cores; worker.0 0 requests, 0 errors, 0 held, 0 MB, 0.5 cores",
		mesh.ByInstance: "web.0 120 requests, 120 errors, 4 held, 0 MB, 0.0 cores; web.1 600 requests, 0 errors, 0 held, 1 MB, 0.0 cores; web.2 1260 requests, 60 errors, 0 held, 2 MB, 0.0 cores; worker.1 0 requests, 0 errors, 0 held, 0 MB, 0.5 cores",
	} {
		if got := rows(by); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", by, got, want)
		}
	}
}

func TestStore_AThousandServicesAreBounded(t *testing.T) {
	t.Parallel()
	k := open(t, t.TempDir(), &clock{noon})
	rows := map[mesh.InstanceName]mesh.Measure{}
	for i := range 1000 {
		m := mesh.Measure{Samples: 1, Status: [6]uint64{2: uint64(i*7919%100 + 1)}, CPU: time.Duration(i) * time.Millisecond, Memory: int64(i) << 17}
		m.Latency[i%30] = m.Status[2]
		rows[mesh.InstanceName{Service: mesh.ServiceName(fmt.Sprintf("s%03d", i)), Slot: 1}] = m
	}
	sum := uint64(0)
	for m := range maps.Values(rows) {
		sum += m.Requests()
	}
	most := int64(0)
	for i := range 2000 {
		k.Add("shop", k.now, rows)
		k.now = k.now.Add(mesh.MeasureStep)
		if i%50 == 0 {
			most = max(most, k.size())
		}
	}
	if most > 2_000_000 {
		t.Errorf("%d bytes", most)
	}
	got, _ := k.ask(2000*mesh.MeasureStep, 5000)
	if got.Requests() != 2000*sum {
		t.Errorf("%d requests of %d", got.Requests(), 2000*sum)
	}
	by, err := k.Measures(t.Context(), mesh.MeasureQuery{Stack: "shop", Since: k.now.Add(-time.Hour), Until: k.now, By: mesh.ByInstance})
	if err != nil || len(by.Rows) != 100 || by.Rows[0].Name != (mesh.InstanceName{}) || by.Rows[1].Name.Service != "s000" {
		t.Errorf("%d rows, %v", len(by.Rows), err)
	}
}
