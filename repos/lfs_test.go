package repos

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/charmbracelet/git-lfs-transfer/transfer"
)

// endless repeats a text, and counts how much of it was read.
type endless struct {
	text string
	at   int
	read int64
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.text[e.at:])
	e.at, e.read = (e.at+n)%len(e.text), e.read+int64(n)
	return n, nil
}

func packet(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }

// The library keeps the whole list of objects: one of 280 MB took a gigabyte, sent by a
// key that may only read.
func TestLFS_EndlessBatch(t *testing.T) {
	t.Parallel()
	start := packet("version 1\n") + "0000" + packet("batch\n") + packet("hash-algo=sha256\n") + "0001"
	list := &endless{text: packet(strings.Repeat("a", 64) + " 12\n")}
	in := &commandReader{Reader: io.MultiReader(strings.NewReader(start), list), left: maxLFSCommand}
	b := &lfsBackend{dir: t.TempDir(), max: 1 << 20, in: in}
	err := transfer.NewProcessor(transfer.NewPktline(in, io.Discard), b).ProcessCommands(transfer.DownloadOperation)
	if err == nil || !strings.Contains(err.Error(), "the limit for a command is 4 MB") {
		t.Errorf("got %v", err)
	}
	if list.read > maxLFSCommand {
		t.Errorf("read %d bytes of a list", list.read)
	}
}

// The limit applies to one command: a session may have many, and an object is larger.
func TestLFS_ManyCommands(t *testing.T) {
	t.Parallel()
	batch := packet("batch\n") + packet("hash-algo=sha256\n") + "0001" + strings.Repeat(packet(strings.Repeat("a", 64)+" 12\n"), 10_000) + "0000"
	object := strings.Repeat("x", 6<<20)
	var data strings.Builder
	for i := 0; i < len(object); i += 32 << 10 {
		data.WriteString(packet(object[i : i+32<<10]))
	}
	put := packet("put-object "+hexOf(object)+"\n") + packet(fmt.Sprintf("size=%d\n", len(object))) + "0001" + data.String() + "0000"
	in := &commandReader{Reader: strings.NewReader(packet("version 1\n") + "0000" + strings.Repeat(batch, 12) + put + batch + packet("quit\n") + "0000"), left: maxLFSCommand}
	b := &lfsBackend{dir: t.TempDir(), max: 8 << 20, upload: true, in: in}
	defer b.close()
	var out strings.Builder
	if err := transfer.NewProcessor(transfer.NewPktline(in, &out), b).ProcessCommands(transfer.UploadOperation); err != nil {
		t.Fatal(err)
	}
	if st, err := transfer.Oid(hexOf(object)).Stat(b.dir); err != nil || st.Size() != int64(len(object)) {
		t.Errorf("the object is not there: %v", err)
	}
}

func hexOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// A stack's objects share one limit, and an object beyond it leaves nothing.
func TestLFS_ObjectsOfAStack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := &lfsBackend{dir: dir, max: 100, total: 150, upload: true, in: &commandReader{}}
	for i, c := range []struct {
		size int
		want string
	}{{100, ""}, {60, "the limit is 0 MB"}, {50, ""}, {1, "the limit is 0 MB"}} {
		data := strings.Repeat(string(rune('a'+i)), c.size)
		oid := transfer.Oid(fmt.Sprintf("%x", sha256.Sum256([]byte(data))))
		state, err := b.StartUpload(oid, strings.NewReader(data))
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("object %d: %v", i, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := b.FinishUpload(state); err != nil {
			t.Fatal(err)
		}
	}
	b.close()
	if left, _ := os.ReadDir(filepath.Join(dir, "tmp")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
