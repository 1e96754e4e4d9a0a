package clock

import (
	"testing"
	"time"
)

func TestJumped(t *testing.T) {
	before := time.Now()
	// Without its monotonic part a time is what only the wall clock says; with it, both went on alike.
	if jumped(before, before.Add(8*24*time.Hour)) {
		t.Error("a week that passed is no jump")
	}
	for name, test := range map[string]struct {
		shown time.Duration
		want  bool
	}{"set forward": {8 * 24 * time.Hour, true}, "set a little": {time.Minute, false}, "set back": {-time.Hour, false}} {
		if got := jumpedBy(test.shown - time.Minute); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestTrust(t *testing.T) {
	var w Wall
	now := time.Now()
	for range 3 {
		if now = now.Add(time.Minute); !w.Trust(now) {
			t.Fatal("a clock that goes is not trusted")
		}
	}
	w.pause = now.Add(pauseFor) // as after a jump
	if w.Trust(now.Add(pauseFor - time.Second)) {
		t.Error("is trusted before the pause is over")
	}
	if !w.Trust(now.Add(pauseFor)) {
		t.Error("is never trusted again")
	}
}
