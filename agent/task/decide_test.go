package task

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"chom.dev/agent/journal"
	"chom.dev/proto/contract"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

func TestDecide(t *testing.T) {
	h := newHost(t)
	h.fence = 100
	now := time.Now()
	d := desired()
	d.Generation = 5
	site := journal.Site{
		ID: must(contract.ParseSiteID(d.SiteId)), Organization: must(contract.ParseOrganizationID(d.OrganizationId)),
		Handle: must(contract.ParseHandle(d.Handle)), UID: 200007, Fence: 50, Generation: 5,
	}
	known := held{fence: 50, site: site, known: true, nextUID: 200042}
	unknown := held{nextUID: 200042}
	login := func(o *orderv1.Order) {
		o.SiteId, o.OrganizationId = d.SiteId, d.OrganizationId
		o.Kind = &orderv1.Order_SiteLogin{SiteLogin: &orderv1.SiteLogin{Handle: d.Handle}}
	}
	for _, c := range []struct {
		claim string
		held  held
		edits []func(*orderv1.Order)
		want  string // part of the reason, "" when accepted
	}{
		{"accepts a noop", unknown, nil, ""},
		{"accepts a site that is new here", unknown, []func(*orderv1.Order){converge(d)}, ""},
		{"accepts the same generation again", known, []func(*orderv1.Order){converge(d)}, ""},
		{"accepts a login to a known site", known, []func(*orderv1.Order){login}, ""},
		{"accepts an order that expired within the clocks' difference", unknown, []func(*orderv1.Order){
			func(o *orderv1.Order) { o.ExpireTime = timestamppb.New(now.Add(-4 * time.Minute)) }}, ""},
		{"refuses one that expired before", unknown, []func(*orderv1.Order){
			func(o *orderv1.Order) { o.ExpireTime = timestamppb.New(now.Add(-6 * time.Minute)) }}, "expired"},
		{"refuses one without an end", unknown, []func(*orderv1.Order){func(o *orderv1.Order) { o.ExpireTime = nil }}, "expired"},
		{"refuses a schema from the future", unknown, []func(*orderv1.Order){func(o *orderv1.Order) { o.Schema = 2 }}, "schema 2"},
		{"refuses a kind from the future", unknown, []func(*orderv1.Order){func(o *orderv1.Order) { o.Kind = nil }}, "kind of order is unknown"},
		{"refuses a fence that was used", known, []func(*orderv1.Order){converge(d), func(o *orderv1.Order) { o.Fence = 50 }}, "fence 50"},
		{"refuses a fence out of range", known, []func(*orderv1.Order){converge(d), func(o *orderv1.Order) { o.Fence = 1<<62 + 1 }}, "fence"},
		{"refuses no timeout", unknown, []func(*orderv1.Order){func(o *orderv1.Order) { o.Timeout = nil }}, "timeout"},
		{"refuses a timeout of days", unknown, []func(*orderv1.Order){
			func(o *orderv1.Order) { o.Timeout = durationpb.New(25 * time.Hour) }}, "timeout"},
		{"refuses another organization's order", known, []func(*orderv1.Order){converge(d), func(o *orderv1.Order) {
			o.OrganizationId = contract.NewOrganizationID().String()
			o.GetConvergeSite().Desired = clone(d)
			o.GetConvergeSite().Desired.OrganizationId = o.OrganizationId
		}}, "another organization"},
		{"refuses a login by another organization", known, []func(*orderv1.Order){login, func(o *orderv1.Order) {
			o.OrganizationId = contract.NewOrganizationID().String()
		}}, "another organization"},
		{"refuses a login to an unknown site", unknown, []func(*orderv1.Order){login}, "unknown on this host"},
		{"refuses a login that names another handle", known, []func(*orderv1.Order){login, func(o *orderv1.Order) {
			o.GetSiteLogin().Handle = "aaaaaaaaaa"
		}}, "another handle"},
		{"refuses a known site under another handle", known, []func(*orderv1.Order){converge(d), func(o *orderv1.Order) {
			o.GetConvergeSite().Desired = clone(d)
			o.GetConvergeSite().Desired.Handle = "aaaaaaaaaa"
		}}, "another handle"},
		{"refuses a handle that is no handle", known, []func(*orderv1.Order){converge(d), func(o *orderv1.Order) {
			o.GetConvergeSite().Desired = clone(d)
			o.GetConvergeSite().Desired.Handle = "../../root"
		}}, "handle"},
		{"refuses a new site under a handle that is taken", held{nextUID: 200042, taken: true}, []func(*orderv1.Order){converge(d)}, "belongs to another site"},
		{"refuses an older generation", known, []func(*orderv1.Order){converge(d), func(o *orderv1.Order) {
			o.GetConvergeSite().Desired = clone(d)
			o.GetConvergeSite().Desired.Generation = 4
		}}, "generation 4 is older"},
		{"refuses a desired state of another site", known, []func(*orderv1.Order){converge(d), func(o *orderv1.Order) {
			o.GetConvergeSite().Desired = clone(d)
			o.GetConvergeSite().Desired.SiteId = contract.NewSiteID().String()
		}}, "another site"},
		{"refuses a site when unix ids have run out", held{nextUID: journal.LastUID + 1}, []func(*orderv1.Order){converge(d)}, "unix ids"},
		{"refuses a converge without a site", unknown, []func(*orderv1.Order){converge(d), func(o *orderv1.Order) { o.SiteId = "" }}, "names no site"},
		{"refuses a site id that is none", unknown, []func(*orderv1.Order){converge(d), func(o *orderv1.Order) { o.SiteId = "x" }}, "site id"},
		{"refuses to prepare a server for a site", known, []func(*orderv1.Order){converge(d), func(o *orderv1.Order) {
			o.Kind = &orderv1.Order_PrepareServer{PrepareServer: &orderv1.PrepareServer{}}
		}}, "names a site"},
	} {
		t.Run(c.claim, func(t *testing.T) {
			order, record, reason := decide(h.order(c.edits...), c.held, now)
			if c.want == "" {
				if reason != "" {
					t.Fatalf("refused: %s", reason)
				}
				if order.Site.ID.IsZero() != (record == nil) {
					t.Fatalf("order about site %q has record %v", order.Site.ID, record)
				}
				return
			}
			if !strings.Contains(reason, c.want) {
				t.Fatalf("reason is %q, want something about %q", reason, c.want)
			}
		})
	}
	t.Run("gives a new site the next unix id, and a known one its own", func(t *testing.T) {
		for _, c := range []struct {
			held held
			want uint32
		}{{unknown, 200042}, {known, 200007}} {
			if order, _, reason := decide(h.order(converge(d)), c.held, now); order.Site.UID != c.want {
				t.Errorf("uid %d, want %d (%s)", order.Site.UID, c.want, reason)
			}
		}
	})
}

func TestLine(t *testing.T) {
	for _, c := range []struct{ claim, in, want string }{
		{"keeps words", "héllo wörld", "héllo wörld"},
		{"replaces escape codes, line and direction marks", "a\x1b[31mb\u2028c\u202ed\x00", "a [31mb c d"},
		{"replaces what is no UTF-8", "a\xffb", "a?b"},
		{"cuts between characters", strings.Repeat("é", 10), strings.Repeat("é", 4)},
	} {
		t.Run(c.claim, func(t *testing.T) {
			limit := 100
			if strings.Contains(c.claim, "cuts") {
				limit = 9
			}
			if got := Line(c.in, limit); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
