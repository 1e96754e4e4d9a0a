package main

import (
	"testing"
	"time"
)

func TestLasting(t *testing.T) {
	for text, want := range map[string]time.Duration{"30d": 30 * 24 * time.Hour, "0d": 0, "12h": 12 * time.Hour, "1h30m": 90 * time.Minute} {
		if got, err := lasting("expires", text); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "-1d", "-1h", "30", "1.5d", "70000d", "soon"} {
		if got, err := lasting("expires", text); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}

func TestMoment(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-01-31T08:00:00+01:00": time.Date(2026, 1, 31, 7, 0, 0, 0, time.UTC),
		"2026-01-31":                time.Date(2026, 1, 31, 0, 0, 0, 0, time.Local),
		"7d":                        now.AddDate(0, 0, -7),
	} {
		if got, err := moment("since", text, now); err != nil || !got.AsTime().Equal(want) {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	if got, err := moment("since", "", now); got != nil || err != nil {
		t.Errorf("nothing is %v, %v", got, err)
	}
	if _, err := moment("since", "yesterday", now); err == nil {
		t.Error("yesterday is taken")
	}
}

func TestLinkSecret(t *testing.T) {
	for text, want := range map[string]string{"https://chom.example.com/invitation#chominv_x": "chominv_x", "chominv_x": "chominv_x", "": ""} {
		if got := linkSecret(text); got != want {
			t.Errorf("%q holds %q, want %q", text, got, want)
		}
	}
}

func TestOnly(t *testing.T) {
	type thing struct{ id, name string }
	all := []thing{{"1", "a"}, {"2", "b"}, {"3", "b"}, {"b2", "1"}}
	find := func(nameOrID string) (thing, error) {
		return only(all, "thing", nameOrID, "chom thing list", func(t thing) string { return t.id }, func(t thing) string { return t.name })
	}
	for wanted, id := range map[string]string{"a": "1", "3": "3", "1": "1"} { // an id comes before a name that is spelled like it
		if got, err := find(wanted); err != nil || got.id != id {
			t.Errorf("%q is %v, %v; want %s", wanted, got, err, id)
		}
	}
	for wanted, code := range map[string]int{"b": exitUsage, "c": exitNotFound, "": exitNotFound} {
		if _, err := find(wanted); err == nil || explain(err).code != code {
			t.Errorf("%q: %v", wanted, err)
		}
	}
}
