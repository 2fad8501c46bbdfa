// Command app is what the transcripts deploy: it serves, or misbehaves on demand.
// Behaviour comes from the environment, so that a Dockerfile or a config var can
// choose it.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

// eaten is what /eat has taken.
var eaten [][]byte

func main() {
	log.SetFlags(0)
	log.SetOutput(os.Stdout)
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "worker":
			fmt.Println("working", strings.Join(os.Args[2:], " "))
			stop := make(chan os.Signal, 1)
			signal.Notify(stop, syscall.SIGTERM)
			<-stop
			fmt.Println("worker stops")
			return
		case "print":
			fmt.Println(strings.Join(os.Args[2:], " "))
			return
		case "cat":
			_, _ = io.Copy(os.Stdout, os.Stdin)
			return
		case "stamps": // when each line was printed, in nanoseconds
			for range 20 {
				fmt.Println("stamp", time.Now().UnixNano())
				time.Sleep(50 * time.Millisecond)
			}
			return
		case "count":
			count()
			return
		case "names": // app names web v21
			watchName(os.Args[2], os.Args[3])
			return
		case "tcp":
			serveLines()
			return
		case "exit":
			n, _ := strconv.Atoi(os.Args[2])
			os.Exit(n)
		}
	}
	version, _ := os.ReadFile("/version")
	v := strings.TrimSpace(string(version))
	fmt.Println("starting", v)
	if c := os.Getenv("EXIT"); c != "" {
		fmt.Println("giving up")
		n, _ := strconv.Atoi(c)
		os.Exit(n)
	}
	if dir := os.Getenv("FILES"); dir != "" {
		claimFiles(dir)
	}
	host, port := "", os.Getenv("PORT")
	if a := os.Getenv("LISTEN"); a != "" {
		host, port, _ = net.SplitHostPort(a)
		if port == "" {
			port = os.Getenv("PORT")
		}
	}
	boot, _ := time.ParseDuration(os.Getenv("BOOT"))
	ready := time.Now().Add(boot)
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if time.Now().Before(ready) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		if c := os.Getenv("STATUS"); c != "" && r.URL.Path == "/" {
			n, _ := strconv.Atoi(c)
			w.WriteHeader(n)
		}
		fmt.Fprintf(w, "hello from %s%s\n", v, os.Getenv("GREETING"))
	})
	// /lookup/NAME, or with another name server /lookup/NAME?at=10.213.0.1
	http.HandleFunc("/lookup/", func(w http.ResponseWriter, r *http.Request) {
		var res net.Resolver
		if at := r.URL.Query().Get("at"); at != "" {
			res = net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, at+":53")
			}}
		}
		addrs, err := res.LookupHost(r.Context(), strings.TrimPrefix(r.URL.Path, "/lookup/"))
		fmt.Fprintln(w, len(addrs), "addresses", err)
		for _, a := range addrs {
			fmt.Fprintln(w, a)
		}
	})
	http.HandleFunc("/fetch", func(w http.ResponseWriter, r *http.Request) {
		c := http.Client{Timeout: 30 * time.Second} // a busy machine is slow
		if within, err := time.ParseDuration(r.URL.Query().Get("within")); err == nil {
			c.Timeout = within // for what no answer is expected from
		}
		resp, err := c.Get(r.URL.Query().Get("url"))
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			fmt.Fprintln(w, "fetch:", err)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	})
	// /file/NAME reads a file of $FILES, and /file/NAME?put=TEXT writes it.
	http.HandleFunc("/file/", func(w http.ResponseWriter, r *http.Request) {
		name := filepath.Join(os.Getenv("FILES"), strings.TrimPrefix(r.URL.Path, "/file/"))
		if put := r.URL.Query().Get("put"); put != "" {
			if err := os.WriteFile(name, []byte(put+"\n"), 0o644); err != nil {
				w.WriteHeader(http.StatusInternalServerError)
				fmt.Fprintln(w, err)
				return
			}
		}
		text, err := os.ReadFile(name)
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprintln(w, err)
			return
		}
		_, _ = w.Write(text)
	})
	http.HandleFunc("/env/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, os.Getenv(strings.TrimPrefix(r.URL.Path, "/env/")))
	})
	http.HandleFunc("/eat", func(w http.ResponseWriter, r *http.Request) { // /eat?mb=20 takes that much memory and keeps it
		mb, _ := strconv.Atoi(r.URL.Query().Get("mb"))
		eaten = append(eaten, slices.Repeat([]byte{1}, mb<<20))
		fmt.Fprintln(w, len(eaten))
	})
	http.HandleFunc("/crash", func(http.ResponseWriter, *http.Request) { fmt.Println("crashing"); os.Exit(7) })
	http.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(500 * time.Millisecond)
		fmt.Fprintln(w, "slow", v)
	})
	http.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, msg, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, append([]byte(v+" "), msg...)) != nil {
				return
			}
		}
	})
	http.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	})
	http.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "host", r.Host)
		_ = r.Header.Write(w)
	})
	http.HandleFunc("/print", func(_ http.ResponseWriter, r *http.Request) { fmt.Println(r.URL.Query().Get("line")) })
	srv := &http.Server{Addr: net.JoinHostPort(host, port)}
	if os.Getenv("HANG") != "" {
		select {}
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		fmt.Println("stopping", v)
		os.Exit(0)
	}()
	fmt.Println("listening on", srv.Addr)
	log.Fatal(srv.ListenAndServe())
}

// claimFiles takes the lock of a folder, if no other process has it, and says which, for as
// long as the process runs.
func claimFiles(dir string) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		fmt.Println("no lock:", err)
		return
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		fmt.Println("ANOTHER WRITER")
		return
	}
	fmt.Println("the only writer")
	lockFile = f
}

// lockFile is open for as long as the lock is held.
var lockFile *os.File

// serveLines speaks first, as databases and mail servers do: its version, and then each
// line that it gets, with its version.
func serveLines() {
	version, _ := os.ReadFile("/version")
	v := strings.TrimSpace(string(version))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		os.Exit(0)
	}()
	l, err := net.Listen("tcp", ":"+os.Getenv("PORT"))
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer c.Close()
			fmt.Fprintln(c, "ready", v)
			for in := bufio.NewScanner(c); in.Scan(); {
				fmt.Fprintln(c, v, in.Text())
			}
		}()
	}
}

// count prints numbered lines under a name of its own, until it is told to stop, or ends
// by itself after a while, and then says how many there were. Some are long, some come on
// the other stream.
func count() {
	name := strconv.FormatInt(time.Now().UnixNano(), 36)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	var streams [2]int
	for n := 1; ; n++ {
		stream := n % 3 / 2
		streams[stream]++
		text := "short"
		switch {
		case n == 50: // once: Docker 20.10 may repeat parts of it to a follower while it rotates its log
			text = strings.Repeat("x", 1_000_000)
		case n%1000 == 7:
			text = strings.Repeat("long ", 5_000)
		}
		fmt.Fprintf([]io.Writer{os.Stdout, os.Stderr}[stream], "count %s %d %d %s\n", name, stream, streams[stream], text)
		select {
		case <-stop:
			fmt.Println("counted", name, streams[0], streams[1])
			return
		case <-time.After(2 * time.Millisecond):
		}
		if n == 5000 {
			fmt.Println("counted", name, streams[0], streams[1])
			os.Exit(3)
		}
	}
}

// watchName looks a name up until all its addresses run a release, and fails if an answer
// had an instance that was not healthy, or that was replaced before.
func watchName(name, last string) {
	lookups, asked, newest := 0, 0, 0
	var faults []string
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(url string) (string, error) {
		resp, err := client.Get(url)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK && err == nil {
			err = errors.New(resp.Status)
		}
		return strings.TrimSpace(string(body)), err
	}
	for done := false; !done; {
		lookups++
		addrs, err := net.LookupHost(name)
		if err != nil {
			faults = append(faults, err.Error())
			if len(faults) > 20 {
				break
			}
			continue
		}
		done = true
		before := newest
		for _, a := range addrs {
			asked++
			_, err := get("http://" + a + ":8080/")
			release, rerr := get("http://" + a + ":8080/env/MESH_RELEASE")
			if err = errors.Join(err, rerr); err != nil {
				done = false
				// It may have been replaced since the answer.
				if again, lerr := net.LookupHost(name); lerr != nil || slices.Contains(again, a) {
					faults = append(faults, fmt.Sprint(a, ": ", err, lerr))
				}
				continue
			}
			n, _ := strconv.Atoi(strings.TrimPrefix(release, "v"))
			if n < before {
				faults = append(faults, fmt.Sprintf("%s runs v%d after v%d was seen", a, n, before))
			}
			newest = max(newest, n)
			done = done && release == last
		}
	}
	fmt.Printf("names: %d lookups, %d instances asked, %d faults\n", lookups, asked, len(faults))
	for _, f := range faults {
		fmt.Println(f)
	}
	if len(faults) > 0 {
		os.Exit(1)
	}
}
