package fleet

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
)

func TestAdmit(t *testing.T) {
	live := identity{state: Active, serial: "a", nextSerial: "b", epoch: 7}
	with := func(change func(*identity)) identity { i := live; change(&i); return i }
	for name, test := range map[string]struct {
		i      identity
		serial string
		epoch  uint64
		want   error
		denied bool
	}{
		"the current certificate":        {live, "a", 7, nil, false},
		"the next one":                   {live, "b", 7, nil, false},
		"a draining server":              {with(func(i *identity) { i.state = Draining }), "a", 7, nil, false},
		"an older epoch":                 {live, "a", 6, ErrStaleEpoch, false},
		"a newer epoch":                  {live, "a", 8, ErrStaleEpoch, false},
		"a former certificate":           {live, "z", 7, ErrRevoked, true},
		"no serial":                      {live, "", 7, ErrRevoked, true},
		"no serial where none is next":   {with(func(i *identity) { i.nextSerial = "" }), "", 7, ErrRevoked, true},
		"a server that never enrolled":   {identity{state: Pending}, "", 0, ErrRevoked, true},
		"a removed server":               {with(func(i *identity) { i.state = Removed }), "a", 7, nil, true},
		"a quarantined server":           {with(func(i *identity) { i.state = Quarantined }), "a", 7, nil, true},
		"a former one in an old epoch":   {live, "z", 6, ErrRevoked, true},
		"a state that does not exist":    {with(func(i *identity) { i.state = "x" }), "a", 7, ErrRevoked, true},
		"a quarantined one, older epoch": {with(func(i *identity) { i.state = Quarantined }), "a", 6, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.i.admitSession(test.serial, test.epoch)
			switch {
			case test.want != nil && !errors.Is(err, test.want),
				test.denied != (fault.KindOf(err) == fault.KindDenied),
				test.want == nil && !test.denied && err != nil:
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		t.Run("refuses who is not known", func(t *testing.T) {
			if err := w.Check(ctx, pki.Peer{Server: contract.NewServerID().String(), Serial: "x"}, 0); !errors.Is(err, ErrRevoked) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("refuses one server's certificate for another", func(t *testing.T) {
			_, a := w.host(t, "a", "ka")
			_, b := w.host(t, "b", "kb")
			epoch := w.mustHello(t, a, "ia")
			w.mustHello(t, b, "ib")
			if err := w.Check(ctx, pki.Peer{Server: a.Server, Serial: b.Serial}, epoch); !errors.Is(err, ErrRevoked) {
				t.Errorf("got %v", err)
			}
		})
		t.Run("promotes the next certificate by its first use, and refuses the former", func(t *testing.T) {
			id, old := w.host(t, "promote", "k1")
			epoch := w.mustHello(t, old, "i1")
			der, err := w.Renew(ctx, old, keyHash("k2"), w.now, w.issue(w.now.Add(time.Hour)))
			if err != nil {
				t.Fatal(err)
			}
			next := pki.Peer{Server: old.Server, Serial: serialOf(der), KeyHash: keyHash("k2")}
			if err := w.Check(ctx, old, epoch); err != nil {
				t.Errorf("the old one before the new one's first use: %v", err)
			}
			held := map[contract.ServerID]Held{id: {old.Serial, epoch}}
			if cuts, err := w.Cuts(ctx, held, w.now); err != nil || len(cuts) != 0 {
				t.Errorf("cut too early: %v, %v", cuts, err)
			}
			if err := w.Check(ctx, next, epoch); err != nil {
				t.Errorf("the new one: %v", err)
			}
			if err := w.Check(ctx, old, epoch); !errors.Is(err, ErrRevoked) {
				t.Errorf("the old one: %v", err)
			}
			if _, err := w.hello(ctx, old, "i1"); !errors.Is(err, ErrRevoked) {
				t.Errorf("a hello of the old one: %v", err)
			}
			if cuts, err := w.Cuts(ctx, held, w.now); err != nil || len(cuts) != 1 || !errors.Is(cuts[0].Reason, ErrRevoked) {
				t.Errorf("the stream of the old one: %v, %v", cuts, err)
			}
			if got := w.get(t, id); !got.CertificateExpiresAt.Equal(w.now.Add(time.Hour + 7*24*time.Hour)) {
				t.Errorf("expires at %s", got.CertificateExpiresAt)
			}
		})
		t.Run("promotes once where many calls are the first", func(t *testing.T) {
			_, old := w.host(t, "crowd", "k1")
			epoch := w.mustHello(t, old, "i1")
			der, err := w.Renew(ctx, old, keyHash("k2"), w.now, w.issue(w.now))
			if err != nil {
				t.Fatal(err)
			}
			next := pki.Peer{Server: old.Server, Serial: serialOf(der)}
			var group sync.WaitGroup
			for range 20 {
				group.Go(func() {
					if err := w.Check(ctx, next, epoch); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
		})
	})
}

func TestCuts(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		held := map[contract.ServerID]Held{}
		names := map[contract.ServerID]string{}
		for _, name := range []string{"kept", "removed", "quarantined", "again", "drained"} {
			id, who := w.host(t, name, name)
			held[id], names[id] = Held{who.Serial, w.mustHello(t, who, "i-"+name)}, name
			switch name {
			case "removed":
				if _, err := w.Remove(ctx, id); err != nil {
					t.Fatal(err)
				}
			case "quarantined":
				if err := w.Quarantine(ctx, id, "seen twice"); err != nil {
					t.Fatal(err)
				}
			case "again":
				w.mustHello(t, who, "another")
			case "drained":
				if _, err := w.Drain(ctx, id); err != nil {
					t.Fatal(err)
				}
			}
		}
		for name, since := range map[string]time.Time{"since the beginning": {}, "of the last seconds": w.now} {
			t.Run("names who must be cut "+name, func(t *testing.T) {
				cuts, err := w.Cuts(ctx, held, since)
				if err != nil {
					t.Fatal(err)
				}
				reasons := map[string]error{}
				for _, c := range cuts {
					reasons[names[c.Server]] = c.Reason
				}
				if got := slices.Sorted(maps.Keys(reasons)); !slices.Equal(got, []string{"again", "quarantined", "removed"}) {
					t.Errorf("got %v", got)
				}
				if !errors.Is(reasons["again"], ErrStaleEpoch) || fault.KindOf(reasons["removed"]) != fault.KindDenied {
					t.Errorf("got %v", reasons)
				}
			})
		}
		t.Run("does not look at what changed long before", func(t *testing.T) {
			if cuts, err := w.Cuts(ctx, held, time.Now().Add(time.Hour)); err != nil || len(cuts) != 0 {
				t.Errorf("got %v, %v", cuts, err)
			}
		})
	})
}

// Another replica must not have to wait for its sweep.
func TestNotify(t *testing.T) {
	url := dbtest.PostgresURL(t)
	here, there := dbtest.Open(t, url), dbtest.Open(t, url)
	w := newWorld(t, here)
	id, who := w.host(t, "web", "key")
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan string, 100)
	var group sync.WaitGroup
	group.Go(func() {
		err := there.Listen(ctx, func(topic, payload string) {
			if topic == Topic {
				heard <- payload
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("listen: %v", err)
		}
	})
	// The first hint may come before the listener is there: say Hello until one is heard.
	for deadline := time.After(10 * time.Second); ; {
		w.mustHello(t, who, "i1")
		select {
		case <-heard:
		case <-time.After(50 * time.Millisecond):
			continue
		case <-deadline:
			t.Fatal("nothing was heard")
		}
		break
	}
	var next pki.Peer
	for _, step := range []struct {
		name  string
		do    func() error
		quiet bool
	}{
		{"a certificate that is pending", func() error {
			der, err := w.Renew(ctx, who, keyHash("k2"), w.now, w.issue(w.now))
			next = pki.Peer{Server: who.Server, Serial: serialOf(der)}
			return err
		}, true},
		{"its first use", func() error { return w.Check(ctx, next, w.get(t, id).Epoch) }, false},
		{"its second use", func() error { return w.Check(ctx, next, w.get(t, id).Epoch) }, true},
		{"a hello", func() error { _, err := w.hello(ctx, next, "i2"); return err }, false},
		{"drain", func() error { _, err := w.Drain(ctx, id); return err }, false},
		{"quarantine", func() error { return w.Quarantine(ctx, id, "seen twice") }, false},
		{"readmit", func() error { _, err := w.Readmit(ctx, id); return err }, false},
		{"remove", func() error { _, err := w.Remove(ctx, id); return err }, false},
	} {
		for settled := false; !settled; { // hints of the step before may still be on their way
			select {
			case <-heard:
			case <-time.After(100 * time.Millisecond):
				settled = true
			}
		}
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		wait := 2 * time.Second // within which a revoked agent must be cut
		if step.quiet {
			wait = 100 * time.Millisecond
		}
		select {
		case got := <-heard:
			if step.quiet || got != id.String() {
				t.Errorf("%s: heard %s", step.name, got)
			}
		case <-time.After(wait):
			if !step.quiet {
				t.Errorf("%s: the other replica heard nothing in %s", step.name, wait)
			}
		}
	}
	cancel()
	group.Wait()
}
