package deploy

import (
	"context"

	"mesh"
)

// SetAlerts changes the alert rules of a stack with fn. They are in force at once.
func (d *Deployer) SetAlerts(ctx context.Context, stack mesh.StackName, fn func(*mesh.AlertRules) error) (mesh.Stack, error) {
	return d.Store.UpdateStack(ctx, stack, func(s *mesh.Stack) error { return fn(&s.Alerts) })
}

// RecordAlert records an alert and the messages about it, and returns them with their
// numbers. The stack's log gets a line about an alert that begins or ends. It is NotFound
// if the alert's record is gone, because its stack was destroyed.
func (d *Deployer) RecordAlert(ctx context.Context, a mesh.Alert, notices []mesh.Notice) (mesh.Alert, []mesh.Notice, error) {
	begins := a.Number == 0
	a, notices, err := d.Store.RecordAlert(ctx, a, notices)
	if err != nil {
		return a, notices, err
	}
	switch {
	case begins && !a.Open(): // it is over as soon as it has happened
		d.Logger.Info("alert", "stack", a.Stack, "alert", a.Number, "kind", string(a.Kind), "what", a.Text)
	case begins:
		d.Logger.Warn("alert", "stack", a.Stack, "alert", a.Number, "kind", string(a.Kind), "what", a.Text)
	case !a.Open():
		d.Logger.Info("alert is over", "stack", a.Stack, "alert", a.Number, "kind", string(a.Kind), "what", a.Outcome)
	}
	if a.Stack != "" && (begins || !a.Open()) {
		text := "alert: " + a.Text
		if !begins {
			text = "recovered: " + a.Outcome
		}
		d.note(a.Stack, "alert", "%s", text)
	}
	return a, notices, nil
}

// Delivered records that messages need no more delivery.
func (d *Deployer) Delivered(ctx context.Context, notices []uint64) error {
	return d.Store.Delivered(ctx, notices)
}

// AddRecipient records who gets messages about alerts.
func (d *Deployer) AddRecipient(ctx context.Context, r mesh.Recipient) error {
	r.Added = d.Now().UTC()
	if err := d.Store.AddRecipient(ctx, r); err != nil {
		return err
	}
	d.Logger.Info("recipient of alerts added", "recipient", string(r.Name), "service", r.Service, "key", string(r.AddedBy))
	return nil
}

// RemoveRecipient removes a recipient, and the messages that wait for it.
func (d *Deployer) RemoveRecipient(ctx context.Context, name mesh.RecipientName, by mesh.KeyName) error {
	if err := d.Store.RemoveRecipient(ctx, name); err != nil {
		return err
	}
	d.Logger.Info("recipient of alerts removed", "recipient", string(name), "key", string(by))
	return nil
}
