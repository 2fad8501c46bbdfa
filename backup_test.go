package mesh_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"mesh"
)

func TestParsePlaceURL(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, endpoint, region, want string }{
		{"/backup/mesh", "", "", "/backup/mesh"},
		{"/backup//mesh/", "", "", "/backup/mesh"},
		{"s3://bucket", "", "", "s3://bucket"},
		{"s3://bucket/a/b/", "", "", "s3://bucket/a/b"},
		{"s3://bucket/a", "https://s3.example.com/", "eu-1", "s3://bucket/a?endpoint=https%3A%2F%2Fs3.example.com&region=eu-1"},
		{"s3://bucket/a?region=x&endpoint=http://127.0.0.1:9000", "", "eu-1", "s3://bucket/a?endpoint=http%3A%2F%2F127.0.0.1%3A9000&region=eu-1"},
		{"s3://bucket?endpoint=s3.example.com", "", "", "s3://bucket?endpoint=https%3A%2F%2Fs3.example.com"},
	} {
		got, err := mesh.ParsePlaceURL(c.in, c.endpoint, c.region)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v, want %q", c.in, got, err, c.want)
			continue
		}
		if again, err := mesh.ParsePlaceURL(string(got), "", ""); err != nil || again != got {
			t.Errorf("%s again: %q, %v", got, again, err)
		}
		place, id := mesh.PlaceURL(got.Item("mesh-20261127T030000Z")).SplitItem()
		if place != got || id != "mesh-20261127T030000Z" {
			t.Errorf("%s with an ID: %q %q", got, place, id)
		}
	}
	for in, want := range map[string]string{
		"":                                     "is not an absolute folder",
		"backup":                               "is not an absolute folder",
		"./backup":                             "is not an absolute folder",
		"/":                                    "/ itself",
		"/a\nb":                                "cannot be the name of a folder",
		"gs://bucket/x":                        "is not a place",
		"s3://":                                "is not the name of a bucket",
		"s3://Bucket":                          "is not the name of a bucket",
		"s3://user:hush@bucket/x":              "has a user or a password",
		"s3://bucket/a/../b":                   "cannot be a prefix",
		"s3://bucket/a?secret=hush":            "an option other than",
		"s3://bucket?endpoint=a/hush":          "is not a URL like",
		"s3://bucket?endpoint=http://u:hush@h": "is not a URL like",
		"s3://bucket?region=a%20b":             "is not a region",
		"s3://%zz/hush":                        "cannot be read",
	} {
		_, err := mesh.ParsePlaceURL(in, "", "")
		var e *mesh.Error
		if !errors.As(err, &e) || e.Kind != mesh.Invalid || e.Hint == "" || !strings.Contains(e.Text, want) || strings.Contains(e.Text+e.Hint, "hush") {
			t.Errorf("%q: %v", in, err)
		}
	}
	if _, err := mesh.ParsePlaceURL("/backup", "https://h", ""); !errors.Is(err, mesh.Invalid) {
		t.Errorf("a folder with an endpoint: %v", err)
	}
}

func FuzzParsePlaceURL(f *testing.F) {
	for _, s := range []string{"/backup/mesh", "s3://bucket/a?region=x&endpoint=http://127.0.0.1:9000", "s3://b.c/(x)'*!"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := mesh.ParsePlaceURL(s, "", "")
		if err != nil {
			return
		}
		if again, err := mesh.ParsePlaceURL(string(p), "", ""); err != nil || again != p {
			t.Fatalf("%q became %q, and then %q, %v", s, p, again, err)
		}
		if place, id := mesh.PlaceURL(p.Item("latest")).SplitItem(); place != p || id != "latest" {
			t.Fatalf("%q with an item: %q %q", p, place, id)
		}
	})
}

func TestBackupID(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 27, 3, 0, 0, 0, time.UTC)
	id := mesh.BackupID("shop-db", at.In(time.FixedZone("", 3600)))
	subject, created, err := mesh.ParseBackupID(id)
	if id != "shop-db-20261127T030000Z" || subject != "shop-db" || !created.Equal(at) || err != nil {
		t.Errorf("%q: %q, %s, %v", id, subject, created, err)
	}
	for _, bad := range []string{"", "latest", "mesh", "mesh-2026", "Mesh-20261127T030000Z", "-20261127T030000Z", "mesh-20261327T030000Z", "../mesh-20261127T030000Z", "mesh-20261127T030000Z.tar"} {
		if _, _, err := mesh.ParseBackupID(bad); !errors.Is(err, mesh.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
