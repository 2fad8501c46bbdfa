package mesh

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// VolumeName names a volume. The rule is that of StackName.
type VolumeName string

// ParseVolumeName checks the name of a volume.
func ParseVolumeName(s string) (VolumeName, error) {
	if s == "mesh" || !labelRule.MatchString(s) {
		return "", &Error{Kind: Invalid, Text: fmt.Sprintf("%q is not a name for a volume", Clip(s, 60)), Hint: labelText}
	}
	return VolumeName(s), nil
}

// Volume is a folder for files that outlive the instances of a stack. It is a value: nobody
// changes a copy read from the store.
type Volume struct {
	Name      VolumeName
	Engine    string      // the engine's volume with the files
	Pending   string      // the engine's volume that an import fills; empty: none. A restarted server removes it
	Kept      []KeptFiles // earlier files, the oldest first, which are removed later
	Created   time.Time
	CreatedBy KeyName
}

// KeptFiles are the files that a volume had before an import.
type KeptFiles struct {
	Engine string // the engine's volume
	Why    string // "replaced by an import"
	Until  time.Time
}

// VolumeUse attaches a volume to a service of a stack.
type VolumeUse struct {
	Volume  VolumeName
	Service ServiceName
	Path    string // absolute and clean
	Shared  bool   // several instances may use it at the same time
}

// Compare orders attachments by volume, service and path.
func (u VolumeUse) Compare(o VolumeUse) int {
	return cmp.Or(cmp.Compare(u.Volume, o.Volume), CompareServices(u.Service, o.Service), cmp.Compare(u.Path, o.Path))
}

// Mount is a volume in a container.
type Mount struct {
	Volume VolumeName
	Engine string // the engine's volume
	Path   string
	Shared bool // other containers may use it at the same time
}

// VolumeUser is a container that uses a volume.
type VolumeUser struct {
	ID   string
	Name string // "web.1", "run.4211", or the container's own name
	Kind string // "instance", "oneoff", "detached"; empty: mesh did not start it
}

// UsesOf returns the attachments of the stack to a volume.
func (s Stack) UsesOf(name VolumeName) (out []VolumeUse) {
	for _, u := range s.Volumes {
		if u.Volume == name {
			out = append(out, u)
		}
	}
	return out
}

// Alone returns an attachment that keeps a service at one instance, because its volume is
// not shared.
func (s Stack) Alone(service ServiceName) (VolumeUse, bool) {
	i := slices.IndexFunc(s.Volumes, func(u VolumeUse) bool { return u.Service == service && !u.Shared })
	if i < 0 {
		return VolumeUse{}, false
	}
	return s.Volumes[i], true
}

// engineFiles are what the engine puts into every container, by the files that it replaces:
// a folder of them cannot be a volume. engineFolders are its own with all that is in them.
var (
	engineFiles   = []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/sbin/docker-init", "/.dockerenv"}
	engineFolders = []string{"/proc", "/sys", "/dev"}
)

// maxMountPath is the longest path of a volume, in bytes. The kernel's limit is 4096 with
// what is in it (PATH_MAX).
const maxMountPath = 512

// ParseMountPath checks where a volume is to be in a container: an absolute path without
// "..", which is no folder that every container has from the engine.
func ParseMountPath(s string) (string, error) {
	bad := func(why, hint string) (string, error) {
		return "", &Error{Kind: Invalid, Text: fmt.Sprintf("%q cannot be the path of a volume: %s", Clip(Visible(s), 80), why), Hint: hint}
	}
	const use = "use the folder that the app writes to, such as /app/uploads"
	switch clean := path.Clean(s); {
	case !strings.HasPrefix(s, "/"):
		return bad("it is not absolute", use)
	case len(s) > maxMountPath:
		return bad(fmt.Sprintf("it is longer than %d bytes", maxMountPath), use)
	case Visible(s) != s:
		return bad("it has characters that cannot be shown", use)
	case clean == "/":
		return bad("it is the whole container", use)
	case clean != strings.TrimSuffix(s, "/"):
		return bad("it is not clean", fmt.Sprintf("use %s", clean))
	default:
		for _, f := range engineFolders {
			if within(clean, f) {
				return bad(f+" belongs to the Docker Engine", use)
			}
		}
		for _, f := range engineFiles {
			if within(f, clean) {
				return bad("the Docker Engine puts "+f+" into every container", use)
			}
		}
		return clean, nil
	}
}

// within reports whether a path is a folder or in it.
func within(name, folder string) bool {
	return name == folder || strings.HasPrefix(name, folder+"/")
}

// Overlaps reports whether one of two paths is in the other.
func Overlaps(a, b string) bool { return within(a, b) || within(b, a) }
