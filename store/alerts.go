package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"mesh"
)

var (
	bucketAlerts = []byte("alerts")
	bucketOutbox = []byte("outbox")
)

// Alerts and the messages about them are limited by the transaction that adds one.
const (
	maxAlerts  = 1000 // that are over; there are as many open ones as there are causes
	maxWaiting = 100  // messages to one recipient
)

type alertForm struct {
	V       int       `json:"v"`
	Number  uint64    `json:"number"`
	Kind    string    `json:"kind"`
	Stack   string    `json:"stack,omitempty"`
	About   string    `json:"about,omitempty"`
	Text    string    `json:"text"`
	Since   time.Time `json:"since"`
	Count   int       `json:"count"`
	Ended   time.Time `json:"ended,omitzero"`
	Outcome string    `json:"outcome,omitempty"`
}

func (f *alertForm) check(key []byte) error {
	if len(key) != 8 || fromNumber(key) != f.Number {
		return errors.New("it belongs to another number")
	}
	return checkVersion(f.V)
}

func storeAlert(a mesh.Alert) *alertForm {
	return &alertForm{
		V: 1, Number: a.Number, Kind: string(a.Kind), Stack: string(a.Stack), About: a.About, Text: a.Text,
		Since: a.Since, Count: a.Count, Ended: a.Ended, Outcome: a.Outcome,
	}
}

func (f *alertForm) alert() mesh.Alert {
	return mesh.Alert{
		Number: f.Number, Kind: mesh.AlertKind(f.Kind), Stack: mesh.StackName(f.Stack), About: f.About, Text: f.Text,
		Since: f.Since, Count: f.Count, Ended: f.Ended, Outcome: f.Outcome,
	}
}

// noticeForm is a message that waits to be delivered. It contains the alert as it was, in
// the form of a record whose key is the alert's number.
type noticeForm struct {
	V         int       `json:"v"`
	Number    uint64    `json:"number"`
	Recipient string    `json:"recipient"`
	Event     string    `json:"event"`
	Alert     alertForm `json:"alert"`
	At        time.Time `json:"at"`
}

func (f *noticeForm) check(key []byte) error {
	if len(key) != 8 || fromNumber(key) != f.Number {
		return errors.New("it belongs to another number")
	}
	return checkVersion(f.V)
}

func (f *noticeForm) notice() mesh.Notice {
	return mesh.Notice{
		Number: f.Number, Recipient: mesh.RecipientName(f.Recipient), Event: mesh.NoticeEvent(f.Event), Alert: f.Alert.alert(), At: f.At,
	}
}

// Alerts returns the newest alerts first, open and past, at most limit of them, or all if
// limit is 0; only those of one stack if stack is not empty. Damaged records are left out.
func (s *Store) Alerts(ctx context.Context, stack mesh.StackName, limit int) ([]mesh.Alert, error) {
	return s.alerts(ctx, limit, func(f *alertForm) bool { return stack == "" || f.Stack == string(stack) })
}

// OpenAlerts returns all open alerts, the newest first.
func (s *Store) OpenAlerts(ctx context.Context) ([]mesh.Alert, error) {
	return s.alerts(ctx, 0, func(f *alertForm) bool { return f.Ended.IsZero() })
}

func (s *Store) alerts(ctx context.Context, limit int, want func(*alertForm) bool) (out []mesh.Alert, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		out = nil
		b := tx.Bucket(bucketAlerts)
		if b == nil {
			return nil
		}
		c := b.Cursor()
		for k, v := c.Last(); k != nil && (limit <= 0 || len(out) < limit); k, v = c.Prev() {
			var f alertForm
			if parse(k, v, &f) == nil && want(&f) { // the doctor reports a damaged one
				out = append(out, f.alert())
			}
		}
		return nil
	})
	return out, err
}

// RecordAlert records an alert and the messages about it. It gives each its number, the
// alert only if that is 0, and returns them. An alert with a number keeps the stack of its
// record, and the messages get it. If the alert's record is gone, because its
// stack was destroyed, the error is NotFound. Only the newest of the past alerts are kept,
// and only the newest messages to each recipient.
func (s *Store) RecordAlert(ctx context.Context, a mesh.Alert, notices []mesh.Notice) (mesh.Alert, []mesh.Notice, error) {
	notices = slices.Clone(notices)
	err := s.update(ctx, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketAlerts)
		if err != nil {
			return err
		}
		box, err := tx.CreateBucketIfNotExists(bucketOutbox)
		if err != nil {
			return err
		}
		switch {
		case a.Number == 0:
			if a.Number, err = b.NextSequence(); err != nil {
				return err
			}
		case b.Get(number(a.Number)) == nil:
			return mesh.Errorf(mesh.NotFound, "there is no alert %d", a.Number)
		default:
			// The stack may have been renamed since the caller read the alert.
			var f alertForm
			if parse(number(a.Number), b.Get(number(a.Number)), &f) == nil {
				a.Stack = mesh.StackName(f.Stack)
			}
		}
		if err := put(b, number(a.Number), storeAlert(a)); err != nil {
			return err
		}
		if err := trimAlerts(b); err != nil {
			return err
		}
		for i := range notices {
			if notices[i].Number, err = box.NextSequence(); err != nil {
				return err
			}
			notices[i].Alert.Number, notices[i].Alert.Stack = a.Number, a.Stack
			n := notices[i]
			err := put(box, number(n.Number), &noticeForm{
				V: 1, Number: n.Number, Recipient: string(n.Recipient), Event: string(n.Event), Alert: *storeAlert(n.Alert), At: n.At,
			})
			if err == nil {
				err = trimOutbox(box, n.Recipient)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return a, notices, err
}

// trimAlerts removes the oldest alerts that are over, beyond the limit.
func trimAlerts(b *bbolt.Bucket) error {
	var over [][]byte
	err := b.ForEach(func(k, v []byte) error {
		var f alertForm
		if parse(k, v, &f) != nil || !f.Ended.IsZero() {
			over = append(over, slices.Clone(k))
		}
		return nil
	})
	for _, k := range over[:max(0, len(over)-maxAlerts)] {
		err = errors.Join(err, b.Delete(k))
	}
	return err
}

// trimOutbox removes the oldest messages to a recipient, beyond the limit.
func trimOutbox(b *bbolt.Bucket, to mesh.RecipientName) error {
	return deleteNotices(b, func(all []*noticeForm) []*noticeForm {
		all = slices.DeleteFunc(all, func(f *noticeForm) bool { return f.Recipient != string(to) })
		return all[:max(0, len(all)-maxWaiting)]
	})
}

// deleteNotices removes the messages that choose returns of all that can be read, and those
// that cannot: nobody can deliver them.
func deleteNotices(b *bbolt.Bucket, choose func([]*noticeForm) []*noticeForm) error {
	if b == nil {
		return nil
	}
	var all []*noticeForm
	var unread [][]byte
	err := b.ForEach(func(k, v []byte) error {
		var f noticeForm
		if parse(k, v, &f) == nil {
			all = append(all, &f)
		} else {
			unread = append(unread, slices.Clone(k))
		}
		return nil
	})
	for _, k := range unread {
		err = errors.Join(err, b.Delete(k))
	}
	for _, f := range choose(all) {
		err = errors.Join(err, b.Delete(number(f.Number)))
	}
	return err
}

// Outbox returns the messages that wait to be delivered, in their order.
func (s *Store) Outbox(ctx context.Context) (out []mesh.Notice, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		out = nil
		b := tx.Bucket(bucketOutbox)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			var f noticeForm
			if parse(k, v, &f) == nil {
				out = append(out, f.notice())
			}
			return nil
		})
	})
	return out, err
}

// Delivered removes messages that are delivered or given up. Those that are gone already
// are no error.
func (s *Store) Delivered(ctx context.Context, numbers []uint64) error {
	return s.update(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketOutbox)
		if b == nil {
			return nil
		}
		var err error
		for _, n := range numbers {
			err = errors.Join(err, b.Delete(number(n)))
		}
		return err
	})
}

// renameAlerts keeps the alerts, messages and recipients of a renamed stack; to is empty
// for one that is destroyed, of which nothing is left.
func renameAlerts(tx *bbolt.Tx, from, to mesh.StackName) error {
	changed := map[uint64]*alertForm{} // a bucket must not change while it is walked
	b := tx.Bucket(bucketAlerts)
	if b != nil {
		err := b.ForEach(func(k, v []byte) error {
			var f alertForm
			if parse(k, v, &f) == nil && f.Stack == string(from) {
				changed[f.Number] = &f
			}
			return nil
		})
		for n, f := range changed {
			if f.Stack = string(to); to == "" {
				err = errors.Join(err, b.Delete(number(n)))
			} else {
				err = errors.Join(err, put(b, number(n), f))
			}
		}
		if err != nil {
			return err
		}
	}
	box := tx.Bucket(bucketOutbox)
	var kept error
	err := deleteNotices(box, func(all []*noticeForm) []*noticeForm {
		all = slices.DeleteFunc(all, func(f *noticeForm) bool { return f.Alert.Stack != string(from) })
		if to == "" {
			return all
		}
		for _, f := range all {
			f.Alert.Stack = string(to)
			kept = errors.Join(kept, put(box, number(f.Number), f))
		}
		return nil
	})
	return errors.Join(err, kept, renameInRecipients(tx, from, to))
}
