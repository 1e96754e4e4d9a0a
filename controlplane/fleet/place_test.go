package fleet

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

func TestChoose(t *testing.T) {
	mine, other := contract.NewOrganizationID(), contract.NewOrganizationID()
	// The name of a candidate is its place: ids sort by birth.
	var ids []contract.ServerID
	for range 3 {
		ids = append(ids, contract.NewServerID())
	}
	good := func(i int, change ...func(*Candidate)) Candidate {
		c := Candidate{ID: ids[i], Tenancy: Shared, State: Active, Online: true, Prepared: true}
		for _, f := range change {
			f(&c)
		}
		return c
	}
	sites := func(n int) func(*Candidate) { return func(c *Candidate) { c.Sites = n } }
	state := func(s State) func(*Candidate) { return func(c *Candidate) { c.State = s } }
	of := func(o contract.OrganizationID) func(*Candidate) {
		return func(c *Candidate) { c.Tenancy, c.Organization = Dedicated, o }
	}
	offline := func(c *Candidate) { c.Online = false }
	bare := func(c *Candidate) { c.Prepared = false }
	ill := func(c *Candidate) { c.Findings = 1 }

	for name, test := range map[string]struct {
		candidates []Candidate
		want       int // place of the chosen one; -1 for none
		kind       fault.Kind
		says       []string
	}{
		"takes the one with the fewest sites":              {[]Candidate{good(0, sites(3)), good(1, sites(1)), good(2, sites(2))}, 1, 0, nil},
		"takes the oldest of equals, in whatever order":    {[]Candidate{good(2), good(0), good(1)}, 0, 0, nil},
		"passes over what is not fit":                      {[]Candidate{good(0, offline), good(1, state(Draining)), good(2, sites(99))}, 2, 0, nil},
		"never takes another organization's":               {[]Candidate{good(0, of(other)), good(1, sites(5))}, 1, 0, nil},
		"takes one's own before a shared one":              {[]Candidate{good(0), good(1, of(mine), sites(50))}, 1, 0, nil},
		"does not fall back to a shared one":               {[]Candidate{good(0), good(1, of(mine), offline)}, -1, fault.KindUnavailable, []string{"one is offline"}},
		"falls back once one's own is removed":             {[]Candidate{good(0), good(1, of(mine), state(Removed))}, 0, 0, nil},
		"says that there is no server":                     {nil, -1, fault.KindConflict, []string{"there is no server"}},
		"says it too where all are somebody else's":        {[]Candidate{good(0, of(other))}, -1, fault.KindConflict, []string{"there is no server"}},
		"says that one is not prepared":                    {[]Candidate{good(0, bare)}, -1, fault.KindUnavailable, []string{"one is not prepared yet"}},
		"says that all drain":                              {[]Candidate{good(0, state(Draining)), good(1, state(Draining))}, -1, fault.KindConflict, []string{"2: each is draining"}},
		"says that one has not enrolled":                   {[]Candidate{good(0, state(Pending))}, -1, fault.KindConflict, []string{"join token"}},
		"says that a host has findings":                    {[]Candidate{good(0, ill)}, -1, fault.KindConflict, []string{"findings"}},
		"says that one is quarantined":                     {[]Candidate{good(0, state(Quarantined))}, -1, fault.KindConflict, []string{"quarantined"}},
		"says all that stands in the way":                  {[]Candidate{good(0, offline), good(1, state(Draining)), good(2, bare)}, -1, fault.KindUnavailable, []string{"offline", "draining", "prepared"}},
		"takes none in a state that does not exist (yet?)": {[]Candidate{good(0, state("new"))}, -1, fault.KindConflict, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Choose(test.candidates, mine)
			if test.want >= 0 {
				if err != nil || got != ids[test.want] {
					t.Errorf("got %v, %v", got, err)
				}
				return
			}
			wantKind(t, err, test.kind)
			for _, words := range test.says {
				if err == nil || !strings.Contains(err.Error(), words) {
					t.Errorf("%v does not say %q", err, words)
				}
			}
			if !got.IsZero() {
				t.Errorf("an error and %s", got)
			}
		})
	}
}

func TestPlace(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		mine, other := organization(t, d, "mine"), organization(t, d, "other")
		place := func(org contract.OrganizationID, asked contract.ServerID) (got contract.ServerID, err error) {
			err = db.InTx(ctx, d, func(tx *db.Tx) error { got, err = Place(ctx, tx, org, asked); return err })
			return got, err
		}
		first, _ := w.host(t, "first", "k")
		second, _ := w.host(t, "second", "k")
		theirs, _, err := w.Create(ctx, "theirs", Dedicated, other, pin)
		if err != nil {
			t.Fatal(err)
		}
		addSite(t, d, other, first)
		t.Run("spreads sites by what the servers hold", func(t *testing.T) {
			if got, err := place(mine, contract.ServerID{}); err != nil || got != second {
				t.Errorf("got %s, %v, want %s", got, err, second)
			}
		})
		t.Run("takes the one that was asked for", func(t *testing.T) {
			if got, err := place(mine, first); err != nil || got != first {
				t.Errorf("got %s, %v", got, err)
			}
		})
		t.Run("knows no server of others, and none that is not", func(t *testing.T) {
			for _, id := range []contract.ServerID{theirs.ID, contract.NewServerID()} {
				if got, err := place(mine, id); !errors.Is(err, ErrNotFound) || !got.IsZero() {
					t.Errorf("got %s, %v", got, err)
				}
			}
			_, err := place(other, theirs.ID)
			wantKind(t, err, fault.KindConflict) // its own, which has not enrolled
		})
		t.Run("refuses one that was asked for and is not fit", func(t *testing.T) {
			for _, test := range []struct {
				name  string
				facts Facts
				kind  fault.Kind
			}{
				{"not prepared", Facts{}, fault.KindUnavailable},
				{"findings", Facts{Prepared: true, Findings: []string{"disk full"}}, fault.KindConflict},
			} {
				if err := db.InTx(ctx, d, func(tx *db.Tx) error { return SaveFacts(ctx, tx, second, test.facts) }); err != nil {
					t.Fatal(err)
				}
				_, err := place(mine, second)
				wantKind(t, err, test.kind)
				if got, err := place(mine, contract.ServerID{}); err != nil || got != first {
					t.Errorf("%s: placed on %s, %v", test.name, got, err)
				}
			}
		})
		t.Run("says what is wrong when nothing is left", func(t *testing.T) {
			if _, err := w.Drain(ctx, first); err != nil {
				t.Fatal(err)
			}
			_, err := place(mine, contract.ServerID{})
			wantKind(t, err, fault.KindConflict)
			if err == nil || strings.Contains(err.Error(), "first") || strings.Contains(err.Error(), "second") {
				t.Errorf("names servers: %v", err)
			}
		})
	})
}

func BenchmarkPlace(b *testing.B) {
	d := dbtest.SQLite(b)
	w := newWorld(b, d)
	org := organization(b, d, "mine")
	for i := range 200 {
		w.host(b, fmt.Sprint("s", i), "k")
	}
	b.ResetTimer()
	for b.Loop() {
		if _, err := Place(b.Context(), d.Reader(), org, contract.ServerID{}); err != nil {
			b.Fatal(err)
		}
	}
}
