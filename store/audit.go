package store

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
)

var bucketAudit = []byte("audit")

// maxAudit limits the audit log: some years of a busy server.
const maxAudit = 20_000

type auditForm struct {
	V      int       `json:"v"`
	At     time.Time `json:"at"`
	By     string    `json:"by,omitempty"`
	Stack  string    `json:"stack,omitempty"`
	Action string    `json:"action"`
	Result string    `json:"result"`
}

func (f *auditForm) check(key []byte) error {
	if len(key) != 8 {
		return errors.New("it has no number")
	}
	return checkVersion(f.V)
}

// AddAudit records an entry and removes the oldest beyond the limit.
func (s *Store) AddAudit(ctx context.Context, e mesh.AuditEntry) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketAudit)
		if err != nil {
			return err
		}
		n, err := b.NextSequence()
		if err != nil {
			return err
		}
		if n > maxAudit {
			if err := b.Delete(number(n - maxAudit)); err != nil {
				return err
			}
		}
		return put(b, number(n), &auditForm{V: 1, At: e.At, By: string(e.By), Stack: string(e.Stack), Action: e.Action, Result: e.Result})
	})
}

// AuditLog returns the newest entries first, at most limit of them, or all if limit
// is 0; only those of one stack if stack is not empty.
func (s *Store) AuditLog(ctx context.Context, stack mesh.StackName, limit int) (out []mesh.AuditEntry, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		out = nil
		b := tx.Bucket(bucketAudit)
		if b == nil {
			return nil
		}
		c := b.Cursor()
		for k, v := c.Last(); k != nil && (limit <= 0 || len(out) < limit); k, v = c.Prev() {
			var f auditForm
			if err := parse(k, v, &f); err != nil {
				if stack == "" { // its stack is unknown
					out = append(out, mesh.AuditEntry{Action: "this entry is damaged: " + err.Error()})
				}
				continue
			}
			if stack != "" && f.Stack != string(stack) {
				continue
			}
			out = append(out, mesh.AuditEntry{At: f.At, By: mesh.KeyName(f.By), Stack: mesh.StackName(f.Stack), Action: f.Action, Result: f.Result})
		}
		return nil
	})
	return out, err
}
