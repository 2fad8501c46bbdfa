package mesh

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Preview makes a stack the preview of a branch: it belongs to another stack, whose
// repository has its commits.
type Preview struct {
	Of     StackName // the stack that it belongs to
	Branch string
	Pushed time.Time // the last push to the branch
	Kept   bool      // previews:keep: it neither expires nor makes room for another one
}

// Repository is the stack whose repository has the commits of s: its own, or the one that it
// is a preview of.
func (s Stack) Repository() StackName {
	if s.Preview != nil {
		return s.Preview.Of
	}
	return s.Name
}

// maxStackName is the length of the longest stack name.
const maxStackName = 40

var notInName = regexp.MustCompile(`[^a-z0-9]+`)

// PreviewNames returns the names that a preview of a branch may have, the best one first.
// The first is of the stack and the branch, and missing if it would be too long or has
// nothing of the branch. The last ends with a hash of both, so that no two branches
// share it.
func PreviewNames(of StackName, branch string) (names []StackName) {
	slug := strings.Trim(notInName.ReplaceAllString(strings.ToLower(branch), "-"), "-")
	if name := string(of) + "--" + slug; slug != "" && len(name) <= maxStackName {
		names = append(names, StackName(name))
	}
	sum := sha256.Sum256([]byte(string(of) + "\x00" + branch))
	hash := hex.EncodeToString(sum[:])[:8]
	parent := strings.TrimRight(string(of)[:min(len(of), maxStackName-2-len(hash))], "-")
	slug = strings.Trim(slug[:min(len(slug), max(0, maxStackName-len(parent)-2-1-len(hash)))], "-")
	if slug != "" {
		slug += "-"
	}
	return append(names, StackName(parent+"--"+slug+hash))
}

// Previewed reports whether a push to a branch makes a preview. The deploy branch is left to
// the caller.
func (s Settings) Previewed(branch string) bool {
	return slices.ContainsFunc(s.Previews, func(p string) bool { return p == previewsAll || p != previewsNone && matchBranch(p, branch) })
}

// previewsAll and previewsNone are the values of previews that are not patterns.
const (
	previewsAll  = "true"
	previewsNone = "false"
)

// matchBranch reports whether a branch matches a pattern in which * stands for any text and
// ? for a character.
func matchBranch(pattern, branch string) bool {
	// path.Match keeps * away from slashes, which mean nothing special in a branch here.
	flat := strings.NewReplacer("/", "\x01")
	ok, err := path.Match(flat.Replace(pattern), flat.Replace(branch))
	return err == nil && ok
}

// Bounds of previews.
const (
	DefaultPreviewsTTL = 7 * 24 * time.Hour
	minPreviewsTTL     = time.Minute
	maxPreviewsTTL     = 3650 * 24 * time.Hour
	DefaultPreviewsMax = 10
	maxPreviewsMax     = 100
)

// PreviewsLive is how long a preview stays after its last push.
func (s Settings) PreviewsLive() time.Duration {
	if s.PreviewsTTL == 0 {
		return DefaultPreviewsTTL
	}
	return s.PreviewsTTL
}

// PreviewsMost is how many previews a stack may have.
func (s Settings) PreviewsMost() int {
	if s.PreviewsMax == 0 {
		return DefaultPreviewsMax
	}
	return s.PreviewsMax
}

var previewRule = regexp.MustCompile(`^[^,\s\x00-\x1f~^:\\]{1,200}$`)

func setPreviews(s *Settings, name, v string) error {
	var out []string
	for w := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' }) {
		switch strings.ToLower(w) {
		case "true", "yes", "on", "all", "*":
			w = previewsAll
		case "false", "no", "off", "none":
			w = previewsNone
		default:
			if _, err := path.Match(w, ""); err != nil || !previewRule.MatchString(w) {
				return Errorf(Invalid, "%s: %q is not a pattern of branches", name, Clip(Visible(w), 60)).WithHint("use true, false, or patterns with commas: previews=feat/*,fix/*")
			}
		}
		if !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	if len(out) > 1 && (slices.Contains(out, previewsAll) || slices.Contains(out, previewsNone)) {
		return Errorf(Invalid, "%s=%q mixes true or false with patterns", name, Clip(Visible(v), 60)).WithHint("use true, false, or patterns with commas: previews=feat/*,fix/*")
	}
	s.Previews = out
	return nil
}

// PreviewsAddons is what a preview gets for the add-ons of the stack that it belongs to.
// Empty is NoAddons.
type PreviewsAddons string

// What previews may get.
const (
	CloneAddons PreviewsAddons = "clone" // add-ons of its own, with copies of the data
	EmptyAddons PreviewsAddons = "empty" // add-ons of its own, without data
	ShareAddons PreviewsAddons = "share" // the same add-ons
	NoAddons    PreviewsAddons = "none"
)

func setPreviewsAddons(s *Settings, name, v string) error {
	switch p := PreviewsAddons(strings.ToLower(v)); p {
	case "", CloneAddons, EmptyAddons, ShareAddons, NoAddons:
		s.PreviewsAddons = p
		return nil
	}
	return Errorf(Invalid, "%s=%q is neither clone, empty, share nor none", name, Clip(Visible(v), 40))
}

// PreviewAddon names the add-on that a preview gets for an attachment.
func PreviewAddon(preview StackName, as string) AddonName {
	name := string(preview) + "-" + strings.Trim(notInName.ReplaceAllString(strings.ToLower(as), "-"), "-")
	if len(name) <= maxStackName {
		return AddonName(name)
	}
	sum := sha256.Sum256([]byte(name))
	hash := hex.EncodeToString(sum[:])[:8]
	return AddonName(strings.TrimRight(name[:maxStackName-1-len(hash)], "-") + "-" + hash)
}
