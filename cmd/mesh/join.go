package main

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"

	"mesh/deploy"
)

// joinDoor serves what a machine needs to join: GET /nodes/SECRET is a script for its shell, and
// GET /nodes/SECRET/agent the agent's image.
type joinDoor struct {
	deployer *deploy.Deployer
	machines *machines
}

const joinPath = "/nodes/"

func (j *joinDoor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secret, what, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, joinPath), "/")
	if !j.deployer.Invited(r.Context(), secret) {
		http.Error(w, "error: this invite is not known, or has expired\nhint:  ssh mesh nodes:join", http.StatusNotFound)
		return
	}
	img, err := j.machines.agentImage()
	if err != nil {
		http.Error(w, "error: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	switch what {
	case "":
		token, addr, err := j.deployer.JoinTokens(r.Context())
		if err != nil {
			http.Error(w, "error: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/x-shellscript; charset=utf-8")
		_, _ = fmt.Fprintf(w, joinScript, shellWord(token), shellWord(addr), shellWord(img.name), shellWord(arch()), shellWord("https://"+r.Host+strings.TrimSuffix(r.URL.Path, "/")), shellWord(j.machines.pin()))
	case "agent":
		w.Header().Set("Content-Type", "application/x-tar")
		b := bufio.NewWriterSize(w, 256<<10)
		if err := img.archive(b); err == nil {
			_ = b.Flush()
		} else {
			panic(http.ErrAbortHandler) //nolint:forbidigo // net/http: the client must not take half of it for the whole
		}
	default:
		http.NotFound(w, r)
	}
}

// shellWord quotes a word for sh.
func shellWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// joinScript makes a machine a node. It installs nothing: it says what is missing. The words
// behind the first line are its arguments. On a node whose agent does not come back, it brings the
// agent's image: mesh itself can only do that through an agent.
const joinScript = `#!/bin/sh
# Makes this machine a node of mesh. It installs nothing.
set -eu
token=%s manager=%s image=%s arch=%s url=%s pin=%s
fail() { echo "error: $1" >&2; [ -z "${2-}" ] || echo "hint:  $2" >&2; exit 1; }
command -v docker >/dev/null 2>&1 || fail "this machine has no Docker Engine" "install it: https://docs.docker.com/engine/install/"
info=$(docker info --format '{{.ServerVersion}} {{.Architecture}} {{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}' 2>&1) ||
	fail "the Docker Engine does not answer: $info" "start it, e.g. with: systemctl start docker; and run this as root, or as a member of the group docker"
set -- $info
case $1 in
[0-9].*|1[0-9].*) fail "the Docker Engine is $1, and mesh needs 20.10 or later" "update it" ;;
esac
[ "$2" = "$arch" ] || fail "the processor of this machine is $2, and the server builds images for $arch" "use a machine like the server's"
known=
case $3 in
inactive) ;;
active)
	docker info --format '{{range .Swarm.RemoteManagers}}{{.Addr}}{{println}}{{end}}' | grep -qxF "$manager" ||
		fail "this machine is in another swarm already" "leave it first: docker swarm leave"
	known=yes
	;;
*) fail "this machine's swarm is $3" "leave it first: docker swarm leave --force" ;;
esac
echo "-----> Loading mesh's agent"
if ! docker image inspect "$image" >/dev/null 2>&1; then
	curl -fsSk --pinnedpubkey "$pin" "$url/agent" | docker load >/dev/null
	docker image inspect "$image" >/dev/null 2>&1 || fail "the agent's image did not come" "run the line again"
fi
if [ "$known" ]; then
	echo "       this machine is a node already, and has the agent now; see it with: ssh mesh nodes"
	exit
fi
echo "-----> Joining the swarm of $manager"
docker swarm join --token "$token" "$manager" >/dev/null || fail "this machine cannot join" "it must reach $manager by TCP, and the nodes each other by TCP and UDP 7946, and UDP 4789"
echo "       joined; see it with: ssh mesh nodes"
`
