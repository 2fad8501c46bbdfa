package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdRouterLog waits until a line of the router's log of the stack shop matches:
// routerlog [OPTION…] REGEXP. Lines are written a moment after their requests.
func cmdRouterLog(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: routerlog [OPTION…] REGEXP")
	}
	re := regexp.MustCompile("(?m)" + args[len(args)-1])
	line := append([]string{"mesh", "logs", "-a", "shop", "--source", "router"}, args[:len(args)-1]...)
	ts.Check(poll(func() error {
		ts.Check(ts.Exec("ssh", line...))
		if out := ts.ReadFile("stdout"); !re.MatchString(out) {
			return fmt.Errorf("no line matches %s:\n%s", re, out)
		}
		return nil
	}))
}

// cmdPSTraffic waits until ps has figures, five seconds after the first request.
func cmdPSTraffic(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: pstraffic")
	}
	re := regexp.MustCompile(`(?m)^web\.1 .* 0\.\d +[\d.]+ms +[\d.]+ms +2 `)
	ts.Check(poll(func() error {
		ts.Check(ts.Exec("ssh", "mesh", "ps", "-a", "shop"))
		if out := ts.ReadFile("stdout"); !re.MatchString(out) {
			return fmt.Errorf("no figures: %s", strings.TrimSpace(out))
		}
		return nil
	}))
}
