package link_test

import (
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chom.dev/agent/link"
	"chom.dev/agent/link/linktest"
)

// Certificates of these tests live for 3 s from 1 s ago: they are due after
// about a second.
const shortLife = 3 * time.Second

func TestRenew(t *testing.T) {
	setup := func(t *testing.T) (*linktest.Server, *agent, string) {
		s := linktest.New(t)
		s.CertLife = shortLife
		a := enrolled(t, s)
		s.CertLife = time.Hour // of the next one
		return s, a, a.serial()
	}
	renewed := func(a *agent, former string) {
		a.t.Helper()
		a.until("it has another certificate", func() bool { return a.serial() != former })
		a.saw("the control plane knows it", func(rec *linktest.Agent) bool { return rec.Serial == a.serial() && rec.Next == "" })
		a.does("with the new certificate")
		if exists(a.t, filepath.Join(a.dir, "identity", "next.pem")) {
			a.t.Error("there are still two identities")
		}
	}
	t.Run("takes place in time, over a new key", func(t *testing.T) {
		t.Parallel()
		_, a, former := setup(t)
		before, err := a.store.Current()
		if err != nil {
			t.Fatal(err)
		}
		renewed(a.start().connected(), former)
		after, err := a.store.Current()
		if err != nil || after.Key.Equal(before.Key) {
			t.Error("the key is the same", err)
		}
	})
	t.Run("is repeated when the question is lost", func(t *testing.T) {
		t.Parallel()
		s, a, former := setup(t)
		var n atomic.Int32
		s.SetFault(func(procedure string, answered bool) error {
			if procedure == "Renew" && !answered && n.Add(1) == 1 {
				return linktest.CutConnection
			}
			return nil
		})
		renewed(a.start(), former)
	})
	t.Run("is repeated with the same key when the answer is lost, and the agent dies", func(t *testing.T) {
		t.Parallel()
		s, a, former := setup(t)
		asked := make(chan struct{}, 100)
		s.SetFault(func(procedure string, answered bool) error {
			if procedure == "Renew" && answered {
				asked <- struct{}{}
				return linktest.CutConnection
			}
			return nil
		})
		a.start()
		<-asked
		key, err := a.store.NextKey()
		if err != nil {
			t.Fatal(err)
		}
		a.kill()
		s.SetFault(nil)
		a.start()
		renewed(a, former)
		id, err := a.store.Current()
		if err != nil || !id.Key.Equal(key) {
			t.Error("the key that was on disk wasn't used", err)
		}
	})
	t.Run("is finished after the agent died between the answer and its first use", func(t *testing.T) {
		t.Parallel()
		s, a, former := setup(t)
		var renewals atomic.Int32
		gone := make(chan struct{}, 100)
		s.SetFault(func(procedure string, answered bool) error {
			switch {
			case procedure == "Renew" && answered:
				renewals.Add(1)
			case procedure == "Hello" && !answered && renewals.Load() > 0:
				gone <- struct{}{}
				return linktest.CutConnection
			}
			return nil
		})
		a.start()
		<-gone
		a.kill()
		if a.serial() != former {
			t.Fatal("the new identity took over before it had worked")
		}
		s.SetFault(nil)
		a.start()
		renewed(a, former)
		if renewals.Load() != 1 {
			t.Errorf("%d certificates were asked for", renewals.Load())
		}
	})
	t.Run("is finished after the agent died between the first use and its note of it", func(t *testing.T) {
		t.Parallel()
		s, a, former := setup(t)
		gone := make(chan struct{}, 100)
		var renewals atomic.Int32
		s.SetFault(func(procedure string, answered bool) error {
			switch {
			case procedure == "Renew" && answered:
				renewals.Add(1)
			case procedure == "Hello" && answered && renewals.Load() > 0:
				gone <- struct{}{} // the control plane has promoted it, the agent never hears of that
				return linktest.CutConnection
			}
			return nil
		})
		a.start()
		<-gone
		a.kill()
		s.SetFault(nil)
		a.start()
		renewed(a, former)
	})
	t.Run("begins anew when the control plane has forgotten it", func(t *testing.T) {
		t.Parallel()
		s, a, former := setup(t)
		var renewals atomic.Int32
		s.SetFault(func(procedure string, answered bool) error {
			if procedure == "Renew" && answered && renewals.Add(1) == 1 {
				// It is restored from a backup before the certificate is used.
				go s.Look(a.id, func(rec *linktest.Agent) { rec.Next = "" })
				time.Sleep(50 * time.Millisecond)
			}
			return nil
		})
		renewed(a.start(), former)
		if renewals.Load() < 2 {
			t.Error("it was not asked for again")
		}
	})
}

func TestRecover(t *testing.T) {
	expired := func(t *testing.T) (*linktest.Server, *agent) {
		s := linktest.New(t)
		s.CertLife = 300 * time.Millisecond
		a := enrolled(t, s)
		s.CertLife = time.Hour
		time.Sleep(400 * time.Millisecond)
		return s, a
	}
	t.Run("gives a host whose certificate ran out a new one", func(t *testing.T) {
		t.Parallel()
		_, a := expired(t)
		a.start().connected().does("after it was recovered")
		a.saw("one recovery", func(rec *linktest.Agent) bool { return rec.Recoveries == 1 })
	})
	t.Run("leaves it to an operator when it happened too often", func(t *testing.T) {
		t.Parallel()
		s, a := expired(t)
		s.Look(a.id, func(rec *linktest.Agent) { rec.Recoveries = 3 })
		a.start()
		a.until("it waits", func() bool { return a.link.State().Phase == link.Waiting })
		st := a.link.State()
		if !strings.Contains(st.Problem, "ran out") || !strings.Contains(st.Problem, "operator") || time.Until(st.NextTry) < 50*time.Second {
			t.Errorf("state is %+v", st)
		}
	})
	t.Run("is not asked for because of the host's clock alone", func(t *testing.T) {
		t.Parallel()
		s, a := func() (*linktest.Server, *agent) {
			s := linktest.New(t)
			return s, enrolled(t, s)
		}()
		asked := make(chan struct{}, 100)
		s.SetFault(func(procedure string, _ bool) error {
			if procedure == "Recover" {
				asked <- struct{}{}
			}
			return nil
		})
		a.start().connected()
		a.clock.Set(time.Now().Add(20 * 24 * time.Hour)) // by that clock it is over
		s.CutAll()
		time.Sleep(2 * time.Second)
		if len(asked) > 0 {
			t.Error("it asked")
		}
	})
}
