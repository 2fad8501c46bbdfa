package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"mesh"
)

// ready is what a listening server writes to DIR/ready.json, for programs that must
// find it: with port 0 nobody else knows the addresses.
type ready struct {
	PID    int    `json:"pid"`
	SSH    string `json:"ssh"`
	HTTP   string `json:"http"`
	HTTPS  string `json:"https,omitempty"`
	Admin  string `json:"admin,omitempty"`
	Socket string `json:"socket"`
	Host   string `json:"host_key"` // fingerprint
}

// announce reports that requests, pushes and commands are served.
func (sv *server) announce(c *control, stdout io.Writer) error {
	l := sv.listen
	r := ready{PID: os.Getpid(), SSH: l.ssh.Addr().String(), HTTP: l.http.Addr().String(), Socket: l.socket.Addr().String(), Host: ssh.FingerprintSHA256(c.hostKey.PublicKey())}
	if l.admin != nil {
		r.Admin = l.admin.Addr().String()
	}
	http := r.HTTP
	if l.https != nil {
		r.HTTPS = l.https.Addr().String()
		http += ", https " + r.HTTPS
	}
	_, _ = fmt.Fprintf(stdout, "mesh %s is ready: ssh %s, http %s, socket %s, domain %s, host key %s\n", sv.version, r.SSH, http, r.Socket, sv.settings.Domain, r.Host)
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := sv.readyFile()
	err = os.WriteFile(path+".new", append(data, '\n'), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil { // a file from an earlier process would mislead
		_ = os.Remove(path + ".new")
		_ = os.Remove(path)
		sv.notes.add(mesh.Finding{What: fmt.Sprintf("nothing can be written to %s: %v", sv.settings.Data, err), Mend: "free space on the server, and restart mesh"})
	}
	return errors.Join(err, sv.handover.ready())
}

func (sv *server) readyFile() string { return filepath.Join(sv.settings.Data, "ready.json") }

// forget removes the ready file, unless it belongs to another process by now.
func (sv *server) forget() {
	var r ready
	data, err := os.ReadFile(sv.readyFile())
	if err == nil && json.Unmarshal(data, &r) == nil && r.PID == os.Getpid() {
		_ = os.Remove(sv.readyFile())
	}
}
