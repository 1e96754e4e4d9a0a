package domain_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/domain"
	"chom.dev/proto/contract"
)

// model is what claims mean, without a database: who has shown that a name is theirs.
type model struct {
	claims  map[string]domain.State // by organization and name
	records map[string]bool         // set in the DNS, likewise
}

func overlap(a, b string) bool {
	return a == b || strings.HasSuffix(a, "."+b) || strings.HasSuffix(b, "."+a)
}

// taken says whether another organization has a name, one above or one below it.
func (m model) taken(who int, name string) bool {
	for key, state := range m.claims {
		var other int
		var held string
		if _, err := fmt.Sscanf(key, "%d %s", &other, &held); err == nil && other != who && state != domain.Pending && overlap(held, name) {
			return true
		}
	}
	return false
}

func (m model) holds(who int, name string) bool {
	for key, state := range m.claims {
		var other int
		var held string
		if _, err := fmt.Sscanf(key, "%d %s", &other, &held); err == nil && other == who && state == domain.Verified && (held == name || strings.HasSuffix(name, "."+held)) {
			return true
		}
	}
	return false
}

// TestModel holds random histories of two organizations that want the same names against the model.
func TestModel(t *testing.T) {
	names := []string{"example.com", "www.example.com", "a.www.example.com", "b.example.com", "example.org"}
	d := dbtest.SQLite(t)
	history := 0
	rapid.Check(t, func(r *rapid.T) {
		history++
		w := newWorld(t, d)
		m := model{map[string]domain.State{}, map[string]bool{}}
		tenants := []contract.OrganizationID{w.tenant(t, fmt.Sprintf("a%d", history)), w.tenant(t, fmt.Sprintf("b%d", history))}
		// Each history has names of its own, so that they can share a database.
		own := func(name string) string {
			return strings.Replace(name, "example", fmt.Sprintf("example%d", history), 1)
		}
		ids := map[string]string{}
		for range rapid.IntRange(5, 30).Draw(r, "steps") {
			who, name := rapid.IntRange(0, 1).Draw(r, "who"), own(rapid.SampledFrom(names).Draw(r, "name"))
			key := fmt.Sprint(who, " ", name)
			known := ids[key] != ""
			switch step := rapid.SampledFrom([]string{"claim", "attest", "set", "unset", "check", "check", "release"}).Draw(r, "step"); step {
			case "claim":
				made, err := w.Create(t.Context(), tenants[who], name)
				if err != nil {
					r.Fatal(err)
				}
				ids[key] = made.ID
				switch m.claims[key] {
				case "":
					m.claims[key] = domain.Pending
				case domain.Released:
					m.claims[key] = domain.Verified
				}
			case "attest":
				made, err := w.Attest(t.Context(), tenants[who], name)
				if refused := errors.Is(err, domain.ErrHeld); refused != m.taken(who, name) || !refused && err != nil {
					r.Fatalf("attest %s: %v", key, err)
				}
				if err == nil {
					ids[key], m.claims[key] = made.ID, domain.Verified
				}
			case "set":
				if known {
					claim, err := w.Get(t.Context(), tenants[who], ids[key])
					if err != nil {
						r.Fatal(err)
					}
					w.set(claim.Record)
					m.records[key] = true
				}
			case "unset":
				delete(w.texts, "_chom."+name)
				delete(m.records, fmt.Sprint(0, " ", name))
				delete(m.records, fmt.Sprint(1, " ", name))
			case "check":
				if !known {
					continue
				}
				if _, err := w.Check(t.Context(), tenants[who], ids[key]); err != nil {
					r.Fatal(err)
				}
				if m.claims[key] == domain.Pending && m.records[key] && !m.taken(who, name) {
					m.claims[key] = domain.Verified
				}
			case "release":
				if !known {
					continue
				}
				if _, err := w.Release(t.Context(), tenants[who], ids[key]); err != nil {
					r.Fatal(err)
				}
				if m.claims[key] == domain.Pending {
					delete(m.claims, key)
					delete(m.records, key) // the next claim has another token
					ids[key] = ""
				} else {
					m.claims[key] = domain.Released
				}
			}
			for who := range tenants {
				for _, name := range names {
					if got, want := w.holds(t, tenants[who], own(name)), m.holds(who, own(name)); got != want {
						r.Fatalf("%d holds %s: %v, want %v", who, own(name), got, want)
					}
				}
			}
		}
	})
}
