package backups

import (
	"errors"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"

	"mesh"
)

const recipientHint = `age1… as age-keygen prints it, or the line of an SSH key: "ssh-ed25519 AAAA…"`

// parseRecipients reads whom backups are encrypted for. No recipients are none.
func parseRecipients(texts []string) (out []age.Recipient, err error) {
	for _, text := range texts {
		text = strings.TrimSpace(text)
		var r age.Recipient
		switch {
		case strings.HasPrefix(text, "ssh-"):
			r, err = agessh.ParseRecipient(text)
		case strings.HasPrefix(text, "age1pq1"):
			r, err = age.ParseHybridRecipient(text)
		case strings.HasPrefix(text, "age1"):
			r, err = age.ParseX25519Recipient(text)
		case strings.HasPrefix(text, "AGE-SECRET-KEY-"), strings.HasPrefix(text, "-----BEGIN"):
			return nil, mesh.Errorf(mesh.Invalid, "this is a secret key: name the public key that belongs to it").WithHint("the public key of an age key: age-keygen -y FILE; treat this one as known to others")
		default:
			err = errors.New("it is neither an age nor an SSH key")
		}
		if err != nil {
			return nil, mesh.Errorf(mesh.Invalid, "%q is not a key that backups can be encrypted for: %s", mesh.Clip(mesh.Visible(text), 80), mesh.Visible(mesh.Clip(err.Error(), 200))).WithHint(recipientHint)
		}
		out = append(out, r)
	}
	if len(out) > 0 {
		if _, err := age.Encrypt(io.Discard, out...); err != nil { // some do not go together
			return nil, mesh.Errorf(mesh.Invalid, "backups cannot be encrypted for these keys together: %s", mesh.Visible(err.Error())).WithHint(recipientHint)
		}
	}
	return out, nil
}

// parseIdentities reads the keys that decrypt backups: a file of age-keygen, or an SSH key.
// Errors quote nothing of it.
func parseIdentities(text mesh.Secret) ([]age.Identity, error) {
	s := text.Reveal()
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	if !strings.Contains(s, "-----BEGIN") {
		ids, err := age.ParseIdentities(strings.NewReader(s))
		if err != nil {
			return nil, mesh.Errorf(mesh.Invalid, "the identity is neither a file of age-keygen nor an SSH key").WithHint("its lines begin with AGE-SECRET-KEY-")
		}
		return ids, nil
	}
	if strings.Contains(s, "BEGIN AGE ENCRYPTED FILE") {
		return nil, mesh.Errorf(mesh.Invalid, "the identity is encrypted").WithHint("decrypt it first: age -d FILE > key")
	}
	id, err := agessh.ParseIdentity([]byte(s))
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, mesh.Errorf(mesh.Invalid, "the SSH key has a passphrase").WithHint("make a copy without: cp KEY key; ssh-keygen -p -N '' -f key")
	case err != nil:
		return nil, mesh.Errorf(mesh.Invalid, "the SSH key cannot be read, or is of a kind that age does not support").WithHint("use ssh-ed25519 or ssh-rsa")
	}
	return []age.Identity{id}, nil
}
