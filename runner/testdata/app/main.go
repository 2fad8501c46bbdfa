// The program in the containers of the tests. Its arguments say what it does,
// one after the other:
//
//	print TEXT      a line on stdout        eprint TEXT   on stderr
//	long N          a line of N bytes       exit CODE
//	env NAME        prints its value        eat           all memory it gets
//	echo            copies stdin to stdout  size          prints each terminal size until it is 40x120
//	get URL         prints the status, or "no" after a second
//	serve ADDR STATUS                       answers every request, until SIGTERM
//	stubborn        like serve :8080 200, but ignores SIGTERM
//	silent ADDR     accepts and says nothing
//	raw ADDR        answers, but not with HTTP
//	wait            for SIGTERM
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

var kept []byte

func main() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	args := os.Args[1:]
	next := func() string {
		if len(args) == 0 {
			fmt.Fprintln(os.Stderr, "app: an argument is missing")
			os.Exit(99)
		}
		a := args[0]
		args = args[1:]
		return a
	}
	for len(args) > 0 {
		switch verb := next(); verb {
		case "print":
			fmt.Println(next())
		case "rest": // a line without an end
			fmt.Print(next())
		case "eprint":
			fmt.Fprintln(os.Stderr, next())
		case "long":
			n, _ := strconv.Atoi(next())
			fmt.Println(strings.Repeat("x", n))
		case "exit":
			n, _ := strconv.Atoi(next())
			os.Exit(n)
		case "env":
			fmt.Println(os.Getenv(next()))
		case "eat":
			for all := [][]byte{}; ; {
				b := make([]byte, 1<<20)
				for i := range b {
					b[i] = 1
				}
				all = append(all, b)
				_ = all
			}
		case "keep": // that many MB
			n, _ := strconv.Atoi(next())
			kept = bytes.Repeat([]byte{1}, n<<20)
		case "echo":
			_, _ = io.Copy(os.Stdout, os.Stdin)
			fmt.Println("end")
		case "size":
			for {
				var ws [4]uint16
				_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, 1, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&ws)))
				if ws[0] == 40 && ws[1] == 120 {
					fmt.Println("40x120")
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
		case "get":
			c := http.Client{Timeout: time.Second}
			resp, err := c.Get(next())
			if err != nil {
				fmt.Println("no")
				break
			}
			fmt.Println(resp.StatusCode)
		case "serve":
			l := listen(next())
			status, _ := strconv.Atoi(next())
			go serve(l, status)
			<-term
			fmt.Println("bye")
			os.Exit(0)
		case "stubborn":
			signal.Ignore(syscall.SIGTERM)
			serve(listen(":8080"), 200)
		case "silent":
			l := listen(next())
			for {
				_, _ = l.Accept()
			}
		case "raw":
			l := listen(next())
			for {
				if c, err := l.Accept(); err == nil {
					_, _ = io.WriteString(c, "SSH-2.0-nothing\r\n")
					_ = c.Close()
				}
			}
		case "wait":
			<-term
			os.Exit(0)
		default:
			fmt.Fprintln(os.Stderr, "app: what is", verb)
			os.Exit(99)
		}
	}
}

func listen(addr string) net.Listener {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(98)
	}
	fmt.Println("listening on", addr)
	return l
}

func serve(l net.Listener, status int) {
	_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/print":
			fmt.Println(r.URL.Query().Get("text"))
		case "/exit":
			os.Exit(7)
		case "/host":
			_, _ = io.WriteString(w, r.Host+" "+r.UserAgent())
			return
		case "/redirect":
			http.Redirect(w, r, "https://example.invalid/", http.StatusFound)
			return
		}
		w.WriteHeader(status)
	}))
}
