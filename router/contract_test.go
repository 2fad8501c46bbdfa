package router_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"mesh"
	"mesh/deploy/deploytest"
	"mesh/router"
)

func TestRouter_Contract(t *testing.T) {
	t.Parallel()
	g := start(t, router.Options{Wait: -1})
	named := func(id string) mesh.Target {
		target := app(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "answered by "+id) })
		target.ID = id
		return target
	}
	deploytest.TestRouter(t, deploytest.Traffic{
		Router:  g.Router,
		Targets: [2]mesh.Target{named("one"), named("two")},
		Ask: func(host mesh.Host) string {
			res, err := g.client.Get("http://" + string(host) + "/")
			if err != nil {
				return err.Error()
			}
			defer res.Body.Close()
			data, err := io.ReadAll(res.Body)
			if err != nil {
				return err.Error()
			}
			body := string(data)
			if id, ok := strings.CutPrefix(body, "answered by "); ok {
				return id
			}
			for words, why := range map[string]string{
				"No app is served": "unknown host", "no release yet": string(mesh.NotDeployed),
				"stopped": string(mesh.StoppedStack), "being worked on": string(mesh.Maintenance),
			} {
				if strings.Contains(body, words) {
					return why
				}
			}
			return body
		},
	})
}
