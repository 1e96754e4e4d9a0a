package nginx

import (
	"context"
	"testing"
)

func TestServes(t *testing.T) {
	t.Run("is not yet true of a version that no probe has seen", func(t *testing.T) {
		m, _ := setup(t)
		base(t, m)
		a := fresh(t, m, Static, "a.example")
		// The agent dies inside the probe, or right before it.
		func() {
			defer func() { _ = recover() }()
			_, _ = m.Apply(t.Context(), a, func(context.Context) error { panic("killed") })
		}()
		if ok, err := m.Serves(t.Context(), a); ok || err != nil {
			t.Errorf("Serves = %v, %v", ok, err)
		}
		probed := false
		if _, err := m.Apply(t.Context(), a, func(context.Context) error { probed = true; return nil }); err != nil {
			t.Fatal(err)
		}
		if ok, err := m.Serves(t.Context(), a); !ok || err != nil || !probed {
			t.Errorf("Serves = %v, %v; probed = %v", ok, err, probed)
		}
	})
}

func TestReady(t *testing.T) {
	m, _ := setup(t)
	if m.Ready(t.Context()) == nil {
		t.Error("nginx is ready before it was prepared")
	}
	base(t, m)
	if err := m.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	// The agent dies between a change and its loading.
	if err := m.change(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := m.Ready(t.Context()); err != nil {
		t.Errorf("a change on its way makes nginx unready: %v", err)
	}
}
