package link_test

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chom.dev/agent/identity"
	"chom.dev/agent/link/linktest"
)

func TestEnroll(t *testing.T) {
	newAgent := func(t *testing.T, s *linktest.Server) *agent {
		return &agent{t: t, dir: t.TempDir(), server: s, log: slog.New(slog.DiscardHandler)}
	}
	t.Run("gives an identity that the door accepts", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		enrolled(t, s).start().connected().does("first")
	})
	t.Run("can be repeated by the same host after the answer was lost, by no other", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		text, _ := s.Token()
		a := newAgent(t, s)
		// Every answer is lost until the process gives up.
		s.SetFault(func(procedure string, answered bool) error {
			if procedure == "Enroll" && answered {
				return linktest.CutConnection
			}
			return nil
		})
		if err := a.enrol(text); err == nil {
			t.Fatal("it enrolled without an answer")
		}
		if exists(t, filepath.Join(a.dir, "identity", "current.pem")) {
			t.Fatal("an identity came from nowhere")
		}
		s.SetFault(nil)
		if err := newAgent(t, s).enrol(text); err == nil || !strings.Contains(err.Error(), "used by another host") {
			t.Errorf("another host could use the token: %v", err)
		}
		if err := a.enrol(text); err != nil {
			t.Fatal(err)
		}
		if exists(t, filepath.Join(a.dir, "identity", "enrolling.key")) {
			t.Error("the enrolment isn't over")
		}
	})
	t.Run("tries again by itself when the control plane is away for a moment", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		text, _ := s.Token()
		var calls atomic.Int32
		s.SetFault(func(string, bool) error {
			if calls.Add(1) == 1 {
				return linktest.CutConnection
			}
			return nil
		})
		if err := newAgent(t, s).enrol(text); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("refuses a control plane with another key than the token pins, and tells it no secret", func(t *testing.T) {
		t.Parallel()
		real, fake := linktest.New(t), linktest.New(t)
		text, _ := real.Token()
		var calls atomic.Int32
		fake.SetFault(func(string, bool) error { calls.Add(1); return nil })
		a := newAgent(t, fake)
		began := time.Now()
		err := a.enrol(text)
		if err == nil || !strings.Contains(err.Error(), "not the one that the join token names") {
			t.Errorf("got %v", err)
		}
		if calls.Load() != 0 {
			t.Error("the token was sent")
		}
		if !errors.Is(err, identity.ErrOtherServer) || time.Since(began) > time.Second {
			t.Errorf("after %s it is %v: somebody waits for that", time.Since(began), err)
		}
		if strings.Contains(err.Error(), text) {
			t.Error("the error repeats the token")
		}
	})
	t.Run("refuses a host that is enrolled already", func(t *testing.T) {
		t.Parallel()
		s := linktest.New(t)
		a := enrolled(t, s)
		other, _ := s.Token()
		if err := a.enrol(other); err == nil || !strings.Contains(err.Error(), "enrolled already") {
			t.Errorf("got %v", err)
		}
	})
}
