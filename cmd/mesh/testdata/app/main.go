// Command app is what the transcripts deploy: it serves, or misbehaves on demand.
// Behaviour comes from the environment, so that a Dockerfile or a config var can
// choose it.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

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
	host, port := "", os.Getenv("PORT")
	if a := os.Getenv("LISTEN"); a != "" {
		host, port, _ = net.SplitHostPort(a)
		if port == "" {
			port = os.Getenv("PORT")
		}
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if c := os.Getenv("STATUS"); c != "" && r.URL.Path == "/" {
			n, _ := strconv.Atoi(c)
			w.WriteHeader(n)
		}
		fmt.Fprintf(w, "hello from %s%s\n", v, os.Getenv("GREETING"))
	})
	http.HandleFunc("/env/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, os.Getenv(strings.TrimPrefix(r.URL.Path, "/env/")))
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
