// Command load requests a host of a server at a steady rate, and says what failed, when, and how
// long answers took: load HOST URL SECONDS RATE. It exits with 0 whatever failed.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: load HOST URL SECONDS RATE")
		os.Exit(2)
	}
	seconds, err := strconv.ParseFloat(os.Args[3], 64)
	rate, rerr := strconv.Atoi(os.Args[4])
	if err != nil || rerr != nil || rate < 1 {
		fmt.Fprintln(os.Stderr, "load: SECONDS and RATE are numbers")
		os.Exit(2)
	}
	l := &load{host: os.Args[1], url: os.Args[2], client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	l.run(time.Duration(seconds*float64(time.Second)), time.Second/time.Duration(rate))
	l.report()
}

type load struct {
	host, url string
	client    *http.Client
	began     time.Time

	mu     sync.Mutex
	took   []time.Duration
	failed []time.Duration // since the beginning
	first  error
}

// run requests until the time is over, whatever the answers take.
func (l *load) run(d, every time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	l.began = time.Now()
	tick := time.NewTicker(every)
	defer tick.Stop()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			all.Go(l.ask)
		}
	}
}

func (l *load) ask() {
	began := time.Now()
	err := l.get()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = append(l.took, time.Since(began))
	if err != nil {
		l.failed = append(l.failed, began.Sub(l.began))
		if l.first == nil {
			l.first = err
		}
	}
}

func (l *load) get() error {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, l.url, nil)
	if err != nil {
		return err
	}
	req.Host = l.host
	res, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode >= 500 {
		err = fmt.Errorf("%s: %.100s", res.Status, body)
	}
	return err
}

func (l *load) report() {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.took)
	if len(l.took) == 0 {
		fmt.Println("no requests")
		return
	}
	at := func(q float64) time.Duration {
		return l.took[int(q*float64(len(l.took)-1))].Round(10 * time.Microsecond)
	}
	fmt.Printf("%d requests, %d failed, p50 %v, p99 %v, longest %v\n", len(l.took), len(l.failed), at(0.5), at(0.99), at(1))
	if n := len(l.failed); n > 0 {
		fmt.Printf("failed from %.2f s to %.2f s: %v\n", slices.Min(l.failed).Seconds(), slices.Max(l.failed).Seconds(), l.first)
	}
}
