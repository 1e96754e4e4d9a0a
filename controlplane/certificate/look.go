package certificate

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/outbound"
	"chom.dev/proto/contract"
)

const (
	lookEvery   = 30 * time.Minute
	lookTimeout = 10 * time.Second
	// looksAtOnce bounds what a crowd of names takes of the control plane.
	looksAtOnce = 16
	// looksOfOne is how many looks of one organization go on at most before others have theirs: servers that let everybody wait are
	// easily set up.
	looksOfOne = 4
	// lookLease is when a look is begun anew whose process has ended. It is over lookTimeout.
	lookLease = 40 * time.Second
	// blindAfter is after how many looks that failed in a row, a day of them, the end of what was met outside before counts no
	// more: it may have been renewed since.
	blindAfter = 48
	// probeLabel takes the place of a wildcard's asterisk: some name has to be asked for.
	probeLabel = "chom-probe"
)

// soonAgain is after how long a look that failed is repeated: a server that starts is back in a minute. After these the usual
// time is kept.
var soonAgain = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute}

// pause is how long a name waits after so many looks that failed in a row, jitter apart.
func pause(failures int64) time.Duration {
	if failures > 0 && failures <= int64(len(soonAgain)) {
		return soonAgain[failures-1]
	}
	return lookEvery
}

// CheckNow looks from outside at those of a site's names that are given and that its host serves with a certificate, a few at once, and
// writes down what it met. Each takes up to ten seconds; when ctx ends, the rest is looked at in its time, and that is no error.
func (c *Certificates) CheckNow(ctx context.Context, organization contract.OrganizationID, site contract.SiteID, names []contract.Domain) error {
	rows, err := c.db.Reader().Query(ctx, columns+`
		WHERE c.organization_id = $1
		  AND c.site_id = $2
		  AND c.look_at IS NOT NULL
		ORDER BY c.name`, organization, site)
	if err != nil {
		return fmt.Errorf("check certificates of site %s: %w", site, err)
	}
	all, err := scanAll(rows)
	if err != nil {
		return fmt.Errorf("check certificates of site %s: %w", site, err)
	}
	var g errgroup.Group // one that cannot be kept breaks no other off
	g.SetLimit(looksOfOne)
	for _, r := range all {
		if slices.Contains(names, r.Name) {
			g.Go(func() error { return c.lookAt(ctx, r.Certificate) })
		}
	}
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("check certificates of site %s: %w", site, err)
	}
	return nil
}

// looking counts the looks that go on, by organization.
type looking struct {
	sync.Mutex
	sync.WaitGroup
	of map[contract.OrganizationID]int
}

func (l *looking) add(who contract.OrganizationID, n int) {
	l.Lock()
	defer l.Unlock()
	if l.of[who] += n; l.of[who] == 0 {
		delete(l.of, who)
	}
}

// free is how many looks may be begun, and busy are the organizations that have as many as they may.
func (l *looking) free() (n int, busy string) {
	l.Lock()
	defer l.Unlock()
	n = looksAtOnce
	var all []string
	for who, on := range l.of {
		if n -= on; on >= looksOfOne {
			all = append(all, who.String())
		}
	}
	return n, strings.Join(all, " ")
}

// look begins looks at names whose time has come, as far as there are places; the end of each wakes Run for the next.
func (c *Certificates) look(ctx context.Context, now time.Time) error {
	free, busy := c.looking.free()
	due, err := c.takeDue(ctx, now, free, busy)
	if err != nil {
		return fmt.Errorf("find certificates to look at: %w", err)
	}
	for _, of := range due {
		c.looking.add(of.Organization, 1)
		c.looking.Go(func() {
			defer c.wakeUp()
			defer c.looking.add(of.Organization, -1)
			if err := c.lookAt(ctx, of); err != nil && ctx.Err() == nil {
				c.log.WarnContext(ctx, "a certificate can't be looked at", "name", of.Name, "site", of.Site, "err", err)
			}
		})
	}
	return nil
}

func (c *Certificates) wakeUp() {
	select {
	case c.wake <- struct{}{}:
	default: // it is awake
	}
}

// takeDue gives names whose time has come, to whoever asks first, of each organization a few.
func (c *Certificates) takeDue(ctx context.Context, now time.Time, n int, busy string) (due []Certificate, err error) {
	if n <= 0 {
		return nil, nil
	}
	err = db.InTx(ctx, c.db, func(tx *db.Tx) error {
		due = nil
		rows, err := tx.Query(ctx, `
			UPDATE certificates
			SET look_at = $1
			WHERE (look_at <= $2 OR look_at > $3)
			  AND (organization_id, site_id, name) IN (
				SELECT organization_id, site_id, name
				FROM (
					SELECT organization_id,
					       site_id,
					       name,
					       look_at,
					       ROW_NUMBER() OVER (PARTITION BY organization_id ORDER BY look_at, site_id, name) AS turn
					FROM certificates
					WHERE (look_at <= $2 OR look_at > $3)
					  AND $4 NOT LIKE '%' || organization_id || '%'
				) d
				WHERE turn <= $5
				ORDER BY look_at, site_id, name
				LIMIT $6
			  )
			RETURNING organization_id, site_id, name`,
			db.Micros(now.Add(lookLease)), db.Micros(now), db.Micros(now.Add(2*lookEvery)), busy, looksOfOne, n)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var one Certificate
			if err := rows.Scan(&one.Organization, &one.Site, &one.Name); err != nil {
				return err
			}
			due = append(due, one)
		}
		return rows.Err()
	}, db.ReadCommitted())
	return due, err
}

func (c *Certificates) lookAt(ctx context.Context, of Certificate) error {
	seen := c.probe(ctx, of.Name)
	if ctx.Err() != nil {
		return ctx.Err() // what was met then says nothing of the name
	}
	return c.keep(ctx, of, seen, time.Now())
}

// keep writes down what was met from outside.
func (c *Certificates) keep(ctx context.Context, of Certificate, seen *sitev1.ObservedCertificate, now time.Time) error {
	err := db.InTx(ctx, c.db, func(tx *db.Tx) error {
		r, err := lock(ctx, tx, of.Organization, of.Site, of.Name)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // it is not reported any more
		}
		if err != nil {
			return err
		}
		if r.lookAt.IsZero() {
			return nil // its host has stopped serving it meanwhile
		}
		r.Outside, r.OutsideAt = seen, micro(now)
		r.failures++
		if seen.GetProblem() == "" {
			r.failures = 0
		}
		switch {
		case met(seen):
			r.outside = r.outside.looked(r.host, seen, r.OutsideAt)
		case r.failures > blindAfter:
			r.outside.begins, r.outside.ends = time.Time{}, time.Time{}
		}
		r.follows(now)
		wait := pause(r.failures)
		r.lookAt = now.Add(wait - wait/10 + rand.N(wait/5)) // a crowd that began together must not stay together
		return r.save(ctx, tx)
	}, db.ReadCommitted())
	if err != nil {
		return fmt.Errorf("keep what %s was met with: %w", of.Name, err)
	}
	return nil
}

// probe asks for a name under the address that the DNS gives, and says what it met.
func (c *Certificates) probe(ctx context.Context, name contract.Domain) *sitev1.ObservedCertificate {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	asked := name.String()
	if name.IsWildcard() {
		asked = probeLabel + "." + name.Base().String()
	}
	chain, err := c.handshake(ctx, asked)
	if err != nil {
		return &sitev1.ObservedCertificate{Domain: name.String(), Problem: "from outside: " + outbound.Explain(err)}
	}
	seen := c.judge(chain, asked, time.Now())
	seen.Domain = name.String()
	return seen
}

// handshake gives the certificates that a server shows for a name.
func (c *Certificates) handshake(ctx context.Context, name string) ([]*x509.Certificate, error) {
	// The dot at the end keeps a resolver from trying the name below its own domain.
	conn, err := c.config.Dialer.DialContext(ctx, "tcp", net.JoinHostPort(name+".", c.config.Port))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// What is shown is judged afterwards, so that one can say what is wrong with it; nothing is sent on this connection.
	secured := tls.Client(conn, &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12, InsecureSkipVerify: true})
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return secured.ConnectionState().PeerCertificates, nil
}

// judge says what certificates that a server showed for a name are worth at a moment.
func (c *Certificates) judge(chain []*x509.Certificate, name string, now time.Time) *sitev1.ObservedCertificate {
	leaf := chain[0]
	sum := sha256.Sum256(leaf.Raw)
	seen := &sitev1.ObservedCertificate{
		Issuer: nameOf(leaf.Issuer.String()), Sha256: sum[:], NotBefore: timestamppb.New(leaf.NotBefore), NotAfter: timestamppb.New(leaf.NotAfter),
	}
	between := x509.NewCertPool()
	for _, one := range chain[1:] {
		between.AddCert(one)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		DNSName: name, Roots: c.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	var unknown x509.UnknownAuthorityError
	switch {
	case err == nil:
		seen.Valid = true
	case now.Before(leaf.NotBefore):
		seen.Problem = "from outside: the certificate is valid from " + day(leaf.NotBefore) + " on only"
	case now.After(leaf.NotAfter):
		seen.Problem = "from outside: the certificate ended on " + day(leaf.NotAfter)
	case leaf.VerifyHostname(name) != nil:
		seen.Problem = "from outside: the certificate is for other names: " + line(strings.Join(leaf.DNSNames, ", "), 200)
	case errors.As(err, &unknown):
		seen.Problem = "from outside: no CA that browsers trust issued the certificate, or those between are missing; it names " + line(leaf.Issuer.String(), 200)
	default:
		seen.Problem = "from outside: the certificate is not valid for a server"
	}
	return seen
}
