package store

import (
	"mesh"
)

// What is sealed cannot be taken for something else that is.
var (
	forgeSecret = []byte("forge secret")
	forgeToken  = []byte("forge token")
)

func (s *Store) storeForge(f *mesh.Forge) (*forgeForm, error) {
	if f == nil {
		return nil, nil //nolint:nilnil // none
	}
	out := &forgeForm{URL: f.URL, Branch: f.Branch, Kind: f.Kind, Pending: f.Pending, Event: f.Event, FaultAt: f.Fault.At, Fault: f.Fault.Why}
	var err error
	if out.Secret, err = s.seal.close([]byte(f.Secret.Reveal()), forgeSecret); err != nil {
		return nil, err
	}
	if f.Token.Reveal() != "" {
		out.Token, err = s.seal.close([]byte(f.Token.Reveal()), forgeToken)
	}
	return out, err
}

func (s *Store) openForge(f *forgeForm) (*mesh.Forge, error) {
	if f == nil {
		return nil, nil //nolint:nilnil // none
	}
	secret, err := s.seal.open(f.Secret, forgeSecret, "the secret of its webhooks", "is missing")
	if err != nil {
		return nil, err
	}
	out := &mesh.Forge{
		URL: f.URL, Branch: f.Branch, Kind: f.Kind, Secret: mesh.NewSecret(string(secret)), Pending: f.Pending, Event: f.Event,
		Fault: mesh.ForgeFault{At: f.FaultAt, Why: f.Fault},
	}
	if len(f.Token) > 0 {
		token, err := s.seal.open(f.Token, forgeToken, "the token for its forge", "is missing")
		if err != nil {
			return nil, err
		}
		out.Token = mesh.NewSecret(string(token))
	}
	return out, nil
}
