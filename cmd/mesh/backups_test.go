package main

import (
	"context"
	"os"
	"sync"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"

	"mesh/backups/s3test"
)

// cmdAgeKey writes a key as age-keygen does, and its public half: agekey FILE. $KEY is the
// public half.
func cmdAgeKey(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: agekey FILE")
	}
	k, err := age.GenerateX25519Identity()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte("# public key: "+k.Recipient().String()+"\n"+k.String()+"\n"), 0o600))
	ts.Setenv("KEY", k.Recipient().String())
}

// s3Servers are the S3 servers of scripts, by their folder.
var s3Servers sync.Map

// cmdS3 runs an S3 server: s3 start sets $S3 to its URL and $S3KEY and $S3SECRET; s3 away
// cuts it off, s3 back ends that.
func cmdS3(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: s3 start|away|back")
	}
	if args[0] == "start" {
		s, err := s3test.Start(context.Background(), ts.MkAbs("s3"))
		ts.Check(err)
		ts.Defer(func() { ts.Check(s.Stop()) })
		s3Servers.Store(ts.Getenv("WORK"), s)
		ts.Setenv("S3", s.URL)
		ts.Setenv("S3KEY", s3test.AccessKey)
		ts.Setenv("S3SECRET", s3test.SecretKey)
		return
	}
	s, ok := s3Servers.Load(ts.Getenv("WORK"))
	if !ok {
		ts.Fatalf("s3 %s: no server runs", args[0])
	}
	s.(*s3test.Server).Away(args[0] == "away")
}
