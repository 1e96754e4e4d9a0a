package certificate

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/timestamppb"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/certificate/certificatetest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/outbound/outboundtest"
	"chom.dev/controlplane/secret/secrettest"
	"chom.dev/proto/contract"
)

const publicURL = "https://chom.example.com"

// world is a control plane with two organizations, each with a site; what package site does in it is done by hand.
type world struct {
	*Certificates
	ours, theirs    contract.OrganizationID
	site, theirSite contract.SiteID
	server          contract.ServerID
	ca              *certificatetest.CA
	held            []contract.Domain
	mu              sync.Mutex
	changes         int
	refuse          error // what Config.Changed says
	addresses       map[string][]string
	metrics         *prometheus.Registry
	mailsRead       int
}

func newWorld(t *testing.T, d *db.DB, changes ...func(*Config)) *world {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	w := &world{ca: certificatetest.New(t), addresses: map[string][]string{}, metrics: prometheus.NewRegistry(), server: contract.NewServerID()}
	keys := secrettest.New()
	mails, err := notify.New(d, keys, log, w.metrics, notify.Config{PublicURL: publicURL})
	must(t, err)
	organizations := organization.New(d, organization.Config{})
	_, resolver := outboundtest.Names(t, w.addresses)
	config := Config{
		Keys: keys, Mails: mails, Organizations: organizations, Metrics: w.metrics, PublicURL: publicURL,
		Dialer: outbound.New(outbound.WithResolver(resolver), outbound.Allow(netip.MustParsePrefix("127.0.0.0/8"))),
		Roots:  []byte(certificatetest.PEM(w.ca.Root)),
		Names: func(context.Context, *db.Tx, contract.OrganizationID, contract.SiteID) ([]contract.Domain, error) {
			return w.held, nil
		},
		Changed: func(context.Context, *db.Tx, contract.OrganizationID, contract.SiteID) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.changes++
			return w.refuse
		},
	}
	for _, change := range changes {
		change(&config)
	}
	w.Certificates, err = New(d, log, config)
	must(t, err)
	t.Cleanup(w.looking.Wait)
	w.hold(t, "example.com", "www.example.com")
	w.exec(t, `
		INSERT INTO servers (id, name, tenancy, state, problem, created_at, changed_at, prepared, prepare_task_id, serial, next_serial, recoveries, epoch, instance_id, task_sequence)
		VALUES ($1, 'web1', 'shared', 'active', '', 1, 1, TRUE, '', '', '', 0, 0, '', 0)`, w.server)
	for name, id := range map[string]*contract.OrganizationID{"acme": &w.ours, "other": &w.theirs} {
		made, err := organizations.Create(t.Context(), name, "owner@"+name+".example")
		must(t, err)
		*id = made.ID
	}
	w.site, w.theirSite = w.addSite(t, w.ours, "shop"), w.addSite(t, w.theirs, "blog")
	return w
}

func (w *world) addSite(t *testing.T, organization contract.OrganizationID, name string) contract.SiteID {
	t.Helper()
	id := contract.NewSiteID()
	w.exec(t, `
		INSERT INTO sites (organization_id, id, handle, server_id, name, type, desired, phase, frozen, generation, observed_generation, problem, last_task_id, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, 'static', $6, 'active', FALSE, 1, 0, '', '', 1, 1)`,
		organization, id, id.String(), w.server, name, []byte{})
	return id
}

func domainOf(t *testing.T, text string) contract.Domain {
	t.Helper()
	name, err := contract.ParseDomain(text)
	must(t, err)
	return name
}

func (w *world) hold(t *testing.T, names ...string) {
	t.Helper()
	w.held = nil
	for _, text := range names {
		name, err := contract.ParsePattern(text)
		must(t, err)
		w.held = append(w.held, name)
	}
}

func (w *world) exec(t *testing.T, query string, args ...any) {
	t.Helper()
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), query, args...); return err }))
}

func (w *world) count(t *testing.T, query string, args ...any) (n int) {
	t.Helper()
	must(t, w.db.Reader().QueryRow(t.Context(), query, args...).Scan(&n))
	return n
}

// report is what the agent of a site's host says at a moment.
func (w *world) report(t *testing.T, at time.Time, seen ...*sitev1.ObservedCertificate) {
	t.Helper()
	w.reportOf(t, w.ours, w.site, at, seen...)
}

func (w *world) reportOf(t *testing.T, organization contract.OrganizationID, site contract.SiteID, at time.Time, seen ...*sitev1.ObservedCertificate) {
	t.Helper()
	at = micro(at)
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error {
		return observe(t.Context(), tx, organization, site, at, at, seen)
	}, db.ReadCommitted()))
}

// one is what is known of a name of our site.
func (w *world) one(t *testing.T, name string) Certificate {
	t.Helper()
	all, err := OfSite(t.Context(), w.db.Reader(), w.ours, w.site)
	must(t, err)
	for _, c := range all {
		if c.Name.String() == name {
			return c
		}
	}
	t.Fatalf("nothing is known of %s", name)
	return Certificate{}
}

// sum stands for the SHA-256 of some certificate.
var sum = []byte(strings.Repeat("s", 32))

// good is a certificate of a CA that ends at a moment, after 90 days.
func good(name string, ends time.Time) *sitev1.ObservedCertificate {
	return &sitev1.ObservedCertificate{
		Domain: name, Valid: true, Source: sitev1.CertificateSource_CERTIFICATE_SOURCE_ACME, Issuer: "CN=R1", Sha256: sum,
		NotBefore: timestamppb.New(ends.Add(-90 * oneDay)), NotAfter: timestamppb.New(ends),
	}
}

// failing is one whose next one could not be had.
func failing(name string, ends, now time.Time, problem string) *sitev1.ObservedCertificate {
	m := good(name, ends)
	m.Problem, m.Failures, m.Valid = problem, 3, now.Before(ends)
	return m
}

// none is a name that is not served by HTTPS.
func none(name, problem string) *sitev1.ObservedCertificate {
	return &sitev1.ObservedCertificate{Domain: name, Problem: problem}
}

// mailed are the templates of the mails since the last call, oldest first.
func (w *world) mailed(t *testing.T) (templates []string) {
	t.Helper()
	rows, err := w.db.Reader().Query(t.Context(), `SELECT m.template || ' ' || m.recipient FROM mails m JOIN outbox o ON o.id = m.id ORDER BY o.id`)
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var one string
		must(t, rows.Scan(&one))
		templates = append(templates, one)
	}
	must(t, rows.Err())
	all := templates[w.mailsRead:]
	w.mailsRead = len(templates)
	return all
}

// settled waits for nothing: it decides all that is due.
func (w *world) settled(t *testing.T, now time.Time) {
	t.Helper()
	for more := true; more; {
		var err error
		more, err = w.warn(t.Context(), now)
		must(t, err)
	}
}

// audited are the actions on an organization, oldest first.
func (w *world) audited(t *testing.T) (actions []string) {
	t.Helper()
	checked, err := audit.New(w.db).Verify(t.Context(), nil)
	if err != nil || len(checked.Damages) > 0 {
		t.Fatalf("the audit trail: %+v, %v", checked, err)
	}
	rows, err := w.db.Reader().Query(t.Context(), `SELECT action FROM audit_events WHERE action LIKE 'certificate.%' ORDER BY organization_id, sequence`)
	must(t, err)
	defer rows.Close()
	for rows.Next() {
		var one string
		must(t, rows.Scan(&one))
		actions = append(actions, one)
	}
	must(t, rows.Err())
	return actions
}

var errRefused = errors.New("refused")

// recorder stands for the mails, to see their values, which the database holds sealed.
type recorder func(values map[string]string)

func (r recorder) Enqueue(_ context.Context, _ *db.Tx, mail notify.Mail) error {
	r(mail.Values)
	return nil
}
