package metrics

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/bits"
	"slices"
	"time"

	"mesh"
)

// point is what a stack did in one step of a tier.
type point struct {
	slot int64 // Unix time, in steps
	rows map[mesh.InstanceName]mesh.Measure
}

// The columns of a row in a block.
const (
	colSamples = iota
	colBytes
	colInFlight
	colHeld
	colCPU    // milliseconds
	colMemory // units of memoryUnit
	colRestarts
	colDisk    // units of memoryUnit
	colStatus  // six
	colLatency = colStatus + len(mesh.Measure{}.Status)
	columns    = colLatency + len(mesh.Latency{})
)

// memoryUnit is the precision of sizes in memory and on disk: below it there is mostly noise,
// which does not compress.
const memoryUnit = 16 << 10

// column returns a value of a measure as it is stored.
func column(m *mesh.Measure, col int) uint64 {
	up := func(v int64) uint64 { return uint64(max(v, 0)) } //nolint:gosec // not negative
	switch col {
	case colSamples:
		return m.Samples
	case colBytes:
		return short(m.Bytes, fineBits)
	case colInFlight:
		return up(m.InFlight)
	case colHeld:
		return up(m.Held)
	case colCPU:
		return short(up(m.CPU.Milliseconds()), fineBits)
	case colMemory:
		return short(up((m.Memory+memoryUnit/2)/memoryUnit), fineBits)
	case colRestarts:
		return m.Restarts
	case colDisk:
		return up((m.Disk + memoryUnit - 1) / memoryUnit)
	}
	if col < colLatency {
		return m.Status[col-colStatus]
	}
	return short(m.Latency[col-colLatency], coarseBits)
}

// Values that are read as a graph or a percentile are kept to so many significant bits,
// as what is below them is noise that would take most of the space: bytes, CPU and memory
// to 0.8 %, and the counts of latency classes to 6 %.
const (
	fineBits   = 6
	coarseBits = 3
)

// short returns a value rounded to bits+1 significant bits, as a small number: values
// below 2<<bits are themselves; above that the number counts the steps, of which there
// are 1<<bits for each power of two. long is its opposite.
func short(v uint64, n int) uint64 {
	e := bits.Len64(v) - n - 1
	if e <= 0 {
		return v
	}
	if v > math.MaxUint64-1<<(e-1) {
		v = math.MaxUint64
	} else {
		v += 1 << (e - 1) // to the nearest; it may carry into the next power
		e = bits.Len64(v) - n - 1
	}
	return uint64(e)<<n + v>>e //nolint:gosec // not negative
}

func long(c uint64, n int) uint64 {
	e := c >> n
	if e <= 1 {
		return c
	}
	e--
	if most := uint64(63 - n); e > most { //nolint:gosec // not negative
		return (2<<n - 1) << most
	}
	return (c - e<<n) << e
}

// setColumn is the opposite of column.
func setColumn(m *mesh.Measure, col int, v uint64) {
	down := int64(min(v, 1<<40)) //nolint:gosec // small enough for any unit
	switch col {
	case colSamples:
		m.Samples = v
	case colBytes:
		m.Bytes = long(v, fineBits)
	case colInFlight:
		m.InFlight = down
	case colHeld:
		m.Held = down
	case colCPU:
		m.CPU = time.Duration(min(long(v, fineBits), 1<<40)) * time.Millisecond //nolint:gosec // 34 years
	case colMemory:
		m.Memory = int64(min(long(v, fineBits), 1<<40)) * memoryUnit //nolint:gosec // small enough
	case colRestarts:
		m.Restarts = v
	case colDisk:
		m.Disk = down * memoryUnit
	default:
		if col < colLatency {
			m.Status[col-colStatus] = v
		} else {
			m.Latency[col-colLatency] = long(v, coarseBits)
		}
	}
}

// steady reports whether a column changes little from point to point, so that its
// differences are stored. Counts vary about a mean, where differences are larger than
// the values.
func steady(col int) bool { return col == colMemory || col == colDisk || col == colSamples }

// encodeBlock returns points in order, column by column: for each row its name, the
// columns that are not zero everywhere, and their values. Columns compress better than
// points, because neighbours are alike.
func encodeBlock(points []point) []byte {
	var b []byte
	names := map[mesh.InstanceName]bool{}
	b = binary.AppendUvarint(b, uint64(len(points)))
	last := int64(0)
	for _, p := range points {
		b = binary.AppendVarint(b, p.slot-last)
		last = p.slot
		for name := range p.rows {
			names[name] = true
		}
	}
	sorted := slices.SortedFunc(maps.Keys(names), mesh.InstanceName.Compare)
	b = binary.AppendUvarint(b, uint64(len(sorted)))
	values := make([]uint64, len(points)*columns)
	for _, name := range sorted {
		b = binary.AppendUvarint(b, uint64(len(name.Service)))
		b = append(b, name.Service...)
		b = binary.AppendUvarint(b, uint64(name.Slot)) //nolint:gosec // not negative
		used := uint64(0)
		for i, p := range points {
			m := p.rows[name] // zero if it has none
			for col := range columns {
				v := column(&m, col)
				if values[col*len(points)+i] = v; v != 0 {
					used |= 1 << col
				}
			}
		}
		b = binary.AppendUvarint(b, used)
		for col := range columns {
			if used&(1<<col) == 0 {
				continue
			}
			before := uint64(0)
			for _, v := range values[col*len(points) : (col+1)*len(points)] {
				if steady(col) {
					b = binary.AppendVarint(b, int64(v-before)) //nolint:gosec // wraps around and back
					before = v
				} else {
					b = binary.AppendUvarint(b, v)
				}
			}
		}
	}
	return b
}

var errBlock = errors.New("not a block of measures")

// The limits of a block: nothing larger was written, and a damaged one takes no memory.
const (
	maxPoints = 4096
	maxPacked = 4 << 20
)

// parseBlock is the opposite of encodeBlock. It takes any bytes.
func parseBlock(b []byte) ([]point, error) {
	r := bytes.NewReader(b)
	n, err := binary.ReadUvarint(r)
	if err != nil || n > maxPoints {
		return nil, errBlock
	}
	points := make([]point, n)
	last := int64(0)
	for i := range points {
		d, err := binary.ReadVarint(r)
		if err != nil {
			return nil, errBlock
		}
		last += d
		points[i] = point{last, map[mesh.InstanceName]mesh.Measure{}}
	}
	rows, err := binary.ReadUvarint(r)
	if err != nil || rows > 1<<16 {
		return nil, errBlock
	}
	measures := make([]mesh.Measure, n)
	for range rows {
		name, used, err := parseRow(r)
		if err != nil {
			return nil, err
		}
		clear(measures)
		for col := range columns {
			if used&(1<<col) == 0 {
				continue
			}
			before := uint64(0)
			for i := range measures {
				var v uint64
				if steady(col) {
					var d int64
					d, err = binary.ReadVarint(r)
					before += uint64(d) //nolint:gosec // wraps around and back
					v = before
				} else {
					v, err = binary.ReadUvarint(r)
				}
				if err != nil {
					return nil, errBlock
				}
				setColumn(&measures[i], col, v)
			}
		}
		for i, m := range measures {
			if m.Samples > 0 {
				points[i].rows[name] = m
			}
		}
	}
	return points, nil
}

func parseRow(r *bytes.Reader) (name mesh.InstanceName, used uint64, err error) {
	n, err := binary.ReadUvarint(r)
	if err != nil || n > 255 {
		return name, 0, errBlock
	}
	service := make([]byte, n)
	if _, err := io.ReadFull(r, service); err != nil {
		return name, 0, errBlock
	}
	slot, err := binary.ReadUvarint(r)
	if err != nil || slot > 1<<30 {
		return name, 0, errBlock
	}
	if used, err = binary.ReadUvarint(r); err != nil || used>>columns != 0 {
		return name, 0, errBlock
	}
	return mesh.InstanceName{Service: mesh.ServiceName(service), Slot: int(slot)}, used, nil //nolint:gosec // small
}

// pack compresses a block, and unpack decompresses it.
func pack(b []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err = w.Write(b); err == nil {
		err = w.Close()
	}
	return out.Bytes(), err
}

func unpack(b []byte) ([]byte, error) {
	out, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b)), maxPacked+1))
	if err == nil && len(out) > maxPacked {
		err = errBlock
	}
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return out, nil
}
