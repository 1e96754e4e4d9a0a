package site_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// silentDNS is a name server that lets everybody wait until it is told to go.
type silentDNS struct {
	now, most atomic.Int64
	gone      chan struct{}
}

func (s *silentDNS) Addresses(ctx context.Context, _ contract.Domain) ([]netip.Addr, error) {
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	select {
	case <-s.gone:
		return nil, domain.ErrNoName
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *silentDNS) CAA(context.Context, contract.Domain) (string, []domain.CAA, error) {
	return "", nil, nil
}

// TestCheckShares claims that an organization which checks sites with many names leaves the other ones their looks.
func TestCheckShares(t *testing.T) {
	w := newWorld(t, dbtest.SQLite(t))
	w.addresses(t, serverAddress)
	dns := &silentDNS{gone: make(chan struct{})}
	w.sites = site.New(w.db, w.tasks, slog.New(slog.DiscardHandler), site.Config{AnyName: true, Resolver: dns, Dialer: newRoutes()})
	request := w.request("shop")
	for i := range 12 {
		request.Domains = append(request.Domains, fmt.Sprintf("n%d.example.com", i))
	}
	ours := w.create(t, request)
	other := w.request("blog")
	other.Organization = w.stranger
	theirs := w.create(t, other)
	ended := make(chan error, 2)
	check := func(organization contract.OrganizationID, id contract.SiteID) {
		// Looks write side by side: none of them is the first effect of a call, which others follow.
		call, _ := db.WithFirst(t.Context(), func(context.Context, *db.Tx) error { return errors.New("a look is taken for a call's first effect") })
		_, err := w.sites.Check(call, organization, id)
		ended <- err
	}
	looks := func(want int64) {
		t.Helper()
		for until := time.Now().Add(5 * time.Second); dns.now.Load() < want; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("%d looks go on, want %d", dns.now.Load(), want)
			}
		}
	}
	go check(w.organization, ours.ID)
	looks(4)
	if _, err := w.sites.Check(t.Context(), w.organization, ours.ID); fault.KindOf(err) != fault.KindLimited {
		t.Errorf("a second check says %v", err)
	}
	go check(w.stranger, theirs.ID)
	looks(5)
	time.Sleep(50 * time.Millisecond)
	if most := dns.most.Load(); most != 5 {
		t.Errorf("%d looks went on at once, want 4 of one organization and 1 of the other", most)
	}
	close(dns.gone)
	for range cap(ended) {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if _, err := w.sites.Check(t.Context(), w.organization, ours.ID); err != nil {
		t.Errorf("a check after the other one says %v", err)
	}
}
