package deploy

import (
	"context"
	"errors"
	"strings"

	"mesh"
)

// Audit records who did what, and the outcome. If recording fails, Audit only logs
// that: the action cannot be taken back.
func (d *Deployer) Audit(ctx context.Context, by mesh.KeyName, stack mesh.StackName, action string, err error) {
	result := "ok"
	var e *mesh.Error
	switch {
	case err == nil:
	case errors.As(err, &e):
		result = e.Text
	case errors.Is(err, context.Canceled):
		result = "cancelled"
	default:
		result = "failed"
	}
	result, _, _ = strings.Cut(result, "\n")
	entry := mesh.AuditEntry{At: d.Now().UTC(), By: by, Stack: stack, Action: mesh.Clip(mesh.Visible(action), 200), Result: mesh.Clip(mesh.Visible(result), 200)}
	if aerr := d.Store.AddAudit(context.WithoutCancel(ctx), entry); aerr != nil {
		d.Logger.Error("audit entry not recorded", "stack", stack, "key", string(by), "err", aerr)
	}
}
