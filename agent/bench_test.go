package agent

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

// BenchmarkHub_Wires holds the connections of 1,000 agents: docs/scale.md. Both ends are in this
// process, so half of the memory is the server's. The CPU is that of their keep-alives.
func BenchmarkHub_Wires(b *testing.B) {
	const agents = 1000
	cert, key, err := NewAuthority()
	if err != nil {
		b.Fatal(err)
	}
	a, err := ParseAuthority(cert, key)
	if err != nil {
		b.Fatal(err)
	}
	hub, err := NewHub(HubOptions{Authority: a, Logger: slog.New(slog.DiscardHandler), OnChange: func() {}})
	if err != nil {
		b.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go func() { _ = hub.Serve(ctx, l) }()
	defer hub.Close()
	pass, err := a.Pass()
	if err != nil {
		b.Fatal(err)
	}
	conf, err := ParsePass([]byte(pass.Reveal()))
	if err != nil {
		b.Fatal(err)
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	for b.Loop() {
		before := heap()
		var open []*yamux.Session
		for i := range agents {
			c, err := tls.Dial("tcp", l.Addr().String(), conf)
			if err != nil {
				b.Fatal(err)
			}
			node := "node" + string(rune('a'+i/26/26%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i%26))
			if err := say(c, hello{Node: node, Version: "1"}); err != nil {
				b.Fatal(err)
			}
			var w welcome
			if err := hear(c, &w); err != nil || w.Fault != "" {
				b.Fatal(err, w.Fault)
			}
			mux, err := yamux.Client(c, multiplexed())
			if err != nil {
				b.Fatal(err)
			}
			go func() { _ = accept(mux, func(net.Conn, string, string) {}) }()
			open = append(open, mux)
		}
		for len(hub.Nodes()) < agents {
			time.Sleep(time.Millisecond)
		}
		b.ReportMetric(float64(heap()-before)/agents/1024, "KiB/agent")
		cpu := spent()
		time.Sleep(10 * time.Second)
		b.ReportMetric(100*(spent()-cpu).Seconds()/10, "%core")
		for _, mux := range open {
			_ = mux.Close()
		}
	}
}

func spent() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
