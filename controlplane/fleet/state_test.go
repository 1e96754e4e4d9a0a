package fleet

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

func TestTransitions(t *testing.T) {
	for _, test := range []struct {
		name string
		to   func(State) (State, error)
		want map[State]State // what is not in it is refused
	}{
		{"drain", drained, map[State]State{Active: Draining, Draining: Draining}},
		{"undrain", undrained, map[State]State{Active: Active, Draining: Active}},
		{"readmit", readmitted, map[State]State{Active: Active, Draining: Draining, Quarantined: Active}},
	} {
		for _, from := range []State{Pending, Active, Draining, Quarantined, Removed} {
			t.Run(test.name+" "+string(from), func(t *testing.T) {
				got, err := test.to(from)
				if want, ok := test.want[from]; got != want || ok != (err == nil) {
					t.Errorf("got %q, %v", got, err)
				}
				if err != nil {
					wantKind(t, err, fault.KindConflict)
				}
			})
		}
	}
}

func TestLife(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		org := organization(t, d, "acme")
		t.Run("drains and undrains while the link stays", func(t *testing.T) {
			id, who := w.host(t, "drain", "key")
			epoch := w.mustHello(t, who, "i1")
			for _, step := range []struct {
				do   func(context.Context, contract.ServerID) (Server, error)
				want State
			}{{w.Drain, Draining}, {w.Drain, Draining}, {w.Undrain, Active}, {w.Undrain, Active}} {
				if s, err := step.do(ctx, id); err != nil || s.State != step.want {
					t.Errorf("got %s, %v, want %s", s.State, err, step.want)
				}
				if err := w.Check(ctx, who, epoch); err != nil {
					t.Error(err)
				}
			}
		})
		t.Run("does not remove a server with sites, and says how many", func(t *testing.T) {
			id, who := w.host(t, "full", "key")
			epoch := w.mustHello(t, who, "i1")
			addSite(t, d, org, id)
			addSite(t, d, org, id)
			_, err := w.Remove(ctx, id)
			wantKind(t, err, fault.KindConflict)
			if err == nil || !strings.Contains(err.Error(), "2 sites") {
				t.Errorf("got %v", err)
			}
			if err := w.Check(ctx, who, epoch); err != nil {
				t.Errorf("it was cut off: %v", err)
			}
		})
		t.Run("removes an empty one for good", func(t *testing.T) {
			id, who := w.host(t, "empty", "key")
			epoch := w.mustHello(t, who, "i1")
			for range 2 {
				if s, err := w.Remove(ctx, id); err != nil || s.State != Removed || s.Online {
					t.Errorf("got %+v, %v", s, err)
				}
			}
			wantKind(t, w.Check(ctx, who, epoch), fault.KindDenied)
			_, err := w.hello(ctx, who, "i1")
			wantKind(t, err, fault.KindDenied)
			for name, do := range map[string]func(context.Context, contract.ServerID) (Server, error){"drain": w.Drain, "undrain": w.Undrain, "readmit": w.Readmit} {
				if _, err := do(ctx, id); fault.KindOf(err) != fault.KindConflict {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
		t.Run("says of an unknown server that it does not exist", func(t *testing.T) {
			for name, do := range map[string]func(context.Context, contract.ServerID) (Server, error){
				"drain": w.Drain, "undrain": w.Undrain, "readmit": w.Readmit, "remove": w.Remove,
			} {
				if _, err := do(ctx, contract.NewServerID()); !errors.Is(err, ErrNotFound) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
		t.Run("either places a site or removes the server", func(t *testing.T) {
			for range 10 {
				id, _ := w.host(t, "race", "key")
				var group sync.WaitGroup
				var removed, placed error
				group.Go(func() { _, removed = w.Remove(ctx, id) })
				group.Go(func() {
					placed = db.InTx(ctx, d, func(tx *db.Tx) error {
						if _, err := Place(ctx, tx, org, id); err != nil {
							return err
						}
						site := contract.NewSiteID()
						_, err := tx.Exec(ctx, `
							INSERT INTO sites (organization_id, id, handle, server_id, name, type, desired, phase, frozen, generation,
								observed_generation, problem, last_task_id, created_at, updated_at)
							VALUES ($1, $2, $2, $3, $2, 'static', $4, 'active', FALSE, 1, 0, '', '', 1, 1)`,
							org, site, id, []byte{1})
						return err
					})
				})
				group.Wait()
				if (removed == nil) == (placed == nil) {
					t.Fatalf("removed: %v, placed: %v", removed, placed)
				}
				exec(t, d, `DELETE FROM sites WHERE server_id = $1`, id)
				if removed != nil {
					if _, err := w.Remove(ctx, id); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	})
}

func TestOnline(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		state State
		seen  time.Time
		want  bool
	}{
		"heard of right now":              {Active, now, true},
		"three heartbeats ago":            {Active, now.Add(-60 * time.Second), true},
		"longer ago":                      {Active, now.Add(-61 * time.Second), false},
		"never":                           {Active, time.Time{}, false},
		"draining":                        {Draining, now, true},
		"quarantined a moment ago":        {Quarantined, now, false},
		"removed a moment ago":            {Removed, now, false},
		"by a replica with a fast clock":  {Active, now.Add(time.Second), true},
		"by a clock that was years ahead": {Active, now.Add(10 * 365 * 24 * time.Hour), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := online(test.state, test.seen, now); got != test.want {
				t.Errorf("got %t", got)
			}
		})
	}
}
