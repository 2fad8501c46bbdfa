package store_test

import (
	"fmt"
	"testing"

	"mesh"
)

// BenchmarkAlertsLook is what one look for alerts reads: 200 stacks, and the open ones of
// 1,000 alerts.
func BenchmarkAlertsLook(b *testing.B) {
	s := open(b, b.TempDir())
	for i := range 200 {
		st := fullStack()
		st.Name, st.Domains, st.Redirects, st.Endpoints, st.Ports = mesh.StackName(fmt.Sprintf("stack-%d", i)), nil, nil, nil, nil
		if _, err := s.CreateStack(b.Context(), st, func(_ []mesh.Stack, st mesh.Stack) (mesh.Stack, error) { return st, nil }); err != nil {
			b.Fatal(err)
		}
	}
	for range 1000 {
		if _, _, err := s.RecordAlert(b.Context(), mesh.Alert{Kind: mesh.AlertBackup, Text: "the backup failed", Since: alertAt, Count: 1, Ended: alertAt}, nil); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if all, err := s.Stacks(b.Context()); err != nil || len(all) != 200 {
			b.Fatal(len(all), err)
		}
		if _, err := s.OpenAlerts(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
