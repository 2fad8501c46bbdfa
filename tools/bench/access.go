package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// accessRequests is how many requests one round of access sends.
const accessRequests = 4000

// access compares the processor time that the server spends on a request with access rules
// and without, in alternating rounds of the same requests.
func (b *bench) access() error {
	if err := b.change("access"); err != nil {
		return err
	}
	if _, err := b.push(); err != nil {
		return err
	}
	var without, with []float64
	for range rounds {
		us, err := b.processorTime("")
		if err != nil {
			return err
		}
		without = append(without, us)
		for _, line := range []string{"access:allow -a bench 127.0.0.0/8", "access:limit -a bench 999999r/s --per client"} {
			if _, err := b.ssh(strings.Fields(line)...); err != nil {
				return err
			}
		}
		password := exec.Command(filepath.Join(b.work, "ssh"), "mesh", "access:set", "-a", "bench", "--user", "me", "--password-from", "-")
		password.Dir, password.Env, password.Stdin = b.work, b.env, strings.NewReader("a password of the bench\n")
		if out, err := password.CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		if us, err = b.processorTime("a password of the bench"); err != nil {
			return err
		}
		with = append(with, us)
		if _, err := b.ssh("access:clear", "-a", "bench"); err != nil {
			return err
		}
	}
	fmt.Printf("a request without access rules          %s of the server's processor time\n", figures(without, "us"))
	fmt.Printf("… with addresses, a limit, a password   %s   ratio %.2f\n", figures(with, "us"), median(with)/median(without))
	return nil
}

// processorTime returns what the server spends on a request, in microseconds: it has
// nothing else to do.
func (b *bench) processorTime(password string) (float64, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{}).DialContext}}
	defer client.CloseIdleConnections()
	ask := func() error {
		req, err := http.NewRequest(http.MethodGet, "http://"+b.http+"/", nil)
		if err != nil {
			return err
		}
		req.Host = "bench.localhost"
		if password != "" {
			req.SetBasicAuth("me", password)
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s, %w", res.Status, err)
		}
		return nil
	}
	for range 100 { // the connection, and the first check of the password
		if err := ask(); err != nil {
			return 0, err
		}
	}
	before, err := ticks(b.server.Process.Pid)
	if err != nil {
		return 0, err
	}
	for range accessRequests {
		if err := ask(); err != nil {
			return 0, err
		}
	}
	after, err := ticks(b.server.Process.Pid)
	return float64(after-before) * 1e6 / clockTicks / accessRequests, err
}

// clockTicks is the unit of times in /proc/PID/stat: USER_HZ, 100 a second on Linux.
const clockTicks = 100

// ticks returns the processor time of a process (proc(5), utime and stime).
func ticks(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	return user + system, err
}
