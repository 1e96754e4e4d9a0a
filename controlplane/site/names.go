package site

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

// A name gets a certificate once it was found to lead to the site's host: an order before that fails, and CAs count failures.
//
//	not served --> looked at, every 2 s at first --> ready: a certificate is ordered, and renewed by the host
//	     ^                      |                      |
//	     +----------------------+----------------------+   the organization holds it no more, or it leaves the site
//
// A ready name stays ready while it is held: renewals must not depend on this process's view of the DNS. It is looked at every
// day, so that people learn of what will keep the next certificate away.

// Record is one to set in the DNS, or one that is in the way.
type Record struct {
	Name   string // fully qualified, without the dot at its end
	Type   string
	Value  string // without quotes
	Remove bool   // it is there and must be taken away
}

// nameRow is a name of a site, as the domains table has it.
type nameRow struct {
	organization contract.OrganizationID
	site         contract.SiteID
	name         contract.Domain
	nameState
}

// nameState is what was found of a name. It is empty for one that the site does not answer to.
type nameState struct {
	readyAt   time.Time // zero while no certificate is ordered
	challenge Challenge // empty while no certificate is ordered
	problem   string
	records   []Record
	looks     int64     // since it began to be looked at, or since something changed for it
	lookedAt  time.Time // zero before the first look
	lookAt    time.Time // zero when there is no next look
}

const (
	looksAtOnce = 16
	// looksOfOne is how many looks of one organization go on at most before others have theirs: hosts that let everybody wait are
	// easily set up.
	looksOfOne = 4
	lookWithin = 20 * time.Second
	// lookLease is when a look is begun anew whose process has ended. It is over lookWithin.
	lookLease    = 40 * time.Second
	checkWithin  = 18 * time.Second // for the DNS; certificates are looked at afterwards, in what is left of
	checkAll     = 23 * time.Second // people's door waits 25 s
	readyEvery   = 24 * time.Hour
	troubleEvery = time.Hour        // for ready names with a problem: it may have been the resolver's
	namesIdle    = 10 * time.Second // between two looks at the table, for what another process has written

	// leadEvery is after how many looks a DNS provider is told of a name again that came after the site's last change. Its coming begins
	// the looks anew; the others are for words that were lost.
	leadEvery = 10

	budgetFor = 7 * 24 * time.Hour

	namesTopic = "site_names" // names are due; the payload is a site's id
)

// untilNextLook is how long a name rests that does not lead to its site after so many looks: people change a record and watch.
func untilNextLook(looks int64) time.Duration {
	switch {
	case looks < 60:
		return 2 * time.Second // two minutes
	case looks < 90:
		return 10 * time.Second // five minutes
	case looks < 150:
		return time.Minute // an hour
	}
	return 5 * time.Minute
}

const nameColumns = `
	SELECT organization_id, site_id, name, ready_at, challenge, problem, records, looks, looked_at, look_at
	FROM domains`

func scanName(from interface{ Scan(...any) error }) (nameRow, error) {
	var r nameRow
	var ready, looked, next sql.NullInt64
	var records string
	if err := from.Scan(&r.organization, &r.site, &r.name, &ready, &r.challenge, &r.problem, &records, &r.looks, &looked, &next); err != nil {
		return nameRow{}, err
	}
	r.readyAt, r.lookedAt, r.lookAt = db.NullTime(ready), db.NullTime(looked), db.NullTime(next)
	if next.Valid && r.lookAt.IsZero() {
		r.lookAt = time.Unix(0, 0) // since the migration
	}
	if records != "" {
		if err := json.Unmarshal([]byte(records), &r.records); err != nil {
			return nameRow{}, fmt.Errorf("read records of %s: %w", r.name, err)
		}
	}
	return r, nil
}

// namesOf are the names of a site.
func namesOf(ctx context.Context, q db.Querier, organization contract.OrganizationID, site contract.SiteID) ([]nameRow, error) {
	rows, err := q.Query(ctx, nameColumns+`
		WHERE organization_id = $1
		  AND site_id = $2`, organization, site)
	if err != nil {
		return nil, fmt.Errorf("read names of site %s: %w", site, err)
	}
	defer rows.Close()
	var all []nameRow
	for rows.Next() {
		r, err := scanName(rows)
		if err != nil {
			return nil, fmt.Errorf("read names of site %s: %w", site, err)
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

// again reads a row once more, for a change; false when the name has left the site.
func (r nameRow) again(ctx context.Context, tx *db.Tx) (nameRow, bool, error) {
	now, err := scanName(tx.QueryRow(ctx, nameColumns+`
		WHERE organization_id = $1
		  AND site_id = $2
		  AND name = $3`+tx.ForUpdate(), r.organization, r.site, r.name))
	if errors.Is(err, sql.ErrNoRows) {
		return r, false, nil
	}
	return now, err == nil, err
}

// changed says whether anything that settle changes differs.
func (r nameRow) changed(now nameRow) bool {
	return !r.lookAt.Equal(now.lookAt) || r.looks != now.looks || r.problem != now.problem || !r.readyAt.Equal(now.readyAt)
}

func (r nameRow) save(ctx context.Context, tx *db.Tx) error {
	var records string
	if len(r.records) > 0 {
		text, err := json.Marshal(r.records)
		if err != nil {
			return fmt.Errorf("write name %s: %w", r.name, err)
		}
		records = string(text)
	}
	if _, err := tx.Exec(ctx, `
		UPDATE domains
		SET ready_at = $4,
		    challenge = $5,
		    problem = $6,
		    records = $7,
		    looks = $8,
		    looked_at = $9,
		    look_at = $10
		WHERE organization_id = $1
		  AND site_id = $2
		  AND name = $3`,
		r.organization, r.site, r.name, db.NullMicros(r.readyAt), string(r.challenge), r.problem, records, r.looks,
		db.NullMicros(r.lookedAt), db.NullMicros(r.lookAt)); err != nil {
		return fmt.Errorf("write name %s: %w", r.name, err)
	}
	return nil
}

// found takes in what a look came to.
func (r *nameRow) found(v verdict, now time.Time) {
	r.problem, r.records, r.lookedAt = v.problem, v.records, now
	r.looks++
	switch {
	case r.readyAt.IsZero() && !v.leads:
		r.lookAt = now.Add(untilNextLook(r.looks))
	case r.problem != "":
		r.lookAt = now.Add(troubleEvery)
	default:
		r.lookAt = now.Add(readyEvery)
	}
}

// Check looks now at those of a site's names that are not served with a valid certificate, and at the certificates of the others
// from outside. What there was no time for is looked at later, as ever. An organization checks one site at a time, a few of its
// names at once: all organizations share the looks.
func (s *Sites) Check(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) (*Site, error) {
	ctx = db.WithoutFirst(ctx) // looks end side by side
	site, err := s.Get(ctx, organization, id)
	if err != nil {
		return nil, err
	}
	rows, err := namesOf(ctx, s.db.Reader(), organization, id)
	if err != nil {
		return nil, err
	}
	whole, cancel := context.WithTimeout(ctx, checkAll)
	defer cancel()
	within, stop := context.WithTimeout(whole, checkWithin)
	defer stop()
	if !s.checking.begin(organization) {
		return nil, errChecking
	}
	defer s.checking.end(organization)
	var all errgroup.Group
	all.SetLimit(looksOfOne)
	var served []contract.Domain
	now := time.Now()
	for _, r := range rows {
		if c := site.Observed.certificate(r.name.String()); c != nil && c.good(now) {
			served = append(served, r.name)
			continue
		}
		if r.lookAt.IsZero() {
			continue // it is not served
		}
		all.Go(func() error {
			select {
			case s.looks <- struct{}{}:
			case <-within.Done():
				return nil
			}
			defer func() { <-s.looks }()
			return s.lookAt(within, r)
		})
	}
	for _, name := range site.Pending() {
		all.Go(func() error {
			s.glanceAt(within, name)
			return nil
		})
	}
	if err := all.Wait(); err != nil && within.Err() == nil {
		return nil, fmt.Errorf("check site %s: %w", id, err)
	}
	if s.config.CheckOutside != nil && len(served) > 0 {
		if err := s.config.CheckOutside(whole, organization, id, served); err != nil && whole.Err() == nil {
			return nil, fmt.Errorf("check site %s: %w", id, err)
		}
	}
	return s.Get(ctx, organization, id)
}

// lookAt finds out whether a name leads to its site and writes down what that means.
func (s *Sites) lookAt(ctx context.Context, r nameRow) error {
	looking, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	f, err := s.ask(looking, r)
	if ctx.Err() != nil {
		return ctx.Err() // nobody answered whom we did not wait for
	}
	if errors.Is(err, ErrNotFound) {
		return nil // the site was removed for good since
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", r.name, err)
	}
	v := decide(f)
	if err := s.conclude(context.WithoutCancel(ctx), r, v, f.provider); err != nil {
		return fmt.Errorf("look at %s: %w", r.name, err)
	}
	return nil
}

// conclude writes down what a look came to. A name that is ready from now on has its certificate ordered in the same transaction.
func (s *Sites) conclude(ctx context.Context, looked nameRow, v verdict, provider bool) error {
	return db.InTx(ctx, s.db, func(tx *db.Tx) error {
		site, err := lock(ctx, tx, looked.organization, looked.site)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		r, there, err := looked.again(ctx, tx)
		if err != nil || !there || r.lookAt.IsZero() {
			return err // it left the site, or is not served any more
		}
		now := time.Now()
		r.found(v, now)
		if !r.orders(v, provider) {
			if provider && r.readyAt.IsZero() && r.looks%leadEvery == 1 { // it may have come after the site's last change
				if err := s.lead(ctx, tx, site); err != nil {
					return err
				}
			}
			return r.save(ctx, tx)
		}
		holds, err := s.holds(ctx, tx, r.organization, r.name)
		if err != nil || !holds {
			return err
		}
		if r.readyAt.IsZero() {
			until, err := s.spend(ctx, tx, r, now)
			if err != nil {
				return err
			}
			if !until.IsZero() {
				r.problem = fmt.Sprintf("it leads to the site, but the organization has begun %d certificates in 7 days, which is the most there may be: it goes on at %s",
					s.config.Budget, until.UTC().Format(time.RFC3339))
				r.lookAt = until
				return r.save(ctx, tx)
			}
			r.readyAt = now
		}
		r.challenge = v.challenge
		if err := r.save(ctx, tx); err != nil {
			return err
		}
		if err := s.renew(ctx, tx, site); err != nil {
			return err
		}
		return s.orderAnew(ctx, tx, site, fmt.Sprintf("%s leads to the site: its certificate is ordered by %s", r.name, r.challenge))
	}, db.ReadCommitted())
}

// orders says whether something is to be ordered for a name after a look: it became ready, or what it was ready by is gone while
// another way is open.
func (r nameRow) orders(v verdict, provider bool) bool {
	switch {
	case v.challenge == "" || v.challenge == r.challenge:
		return false
	case r.challenge == DNS01:
		return !provider
	}
	return true
}

// spend takes one of the names that may begin to get certificates from an organization's budget. When there is none left it says
// when there is again; else the zero time.
func (s *Sites) spend(ctx context.Context, tx *db.Tx, r nameRow, now time.Time) (time.Time, error) {
	// The tenant's row makes its names wait for each other; the count then is the last word.
	if _, err := tx.Exec(ctx, `UPDATE organizations SET name = name WHERE id = $1`, r.organization); err != nil {
		return time.Time{}, fmt.Errorf("spend budget: %w", err)
	}
	from := db.Micros(now.Add(-budgetFor))
	spent, err := tx.Exec(ctx, `
		INSERT INTO certificate_starts (organization_id, name, started_at)
		SELECT $1, $2, $3
		WHERE (SELECT COUNT(*) FROM certificate_starts WHERE organization_id = $1 AND started_at > $4) < $5`,
		r.organization, r.name, db.Micros(now), from, s.config.Budget)
	if err != nil {
		return time.Time{}, fmt.Errorf("spend budget: %w", err)
	}
	if spent > 0 {
		_, err := tx.Exec(ctx, `DELETE FROM certificate_starts WHERE organization_id = $1 AND started_at <= $2`, r.organization, from)
		if err != nil {
			return time.Time{}, fmt.Errorf("forget what was spent: %w", err)
		}
		return time.Time{}, nil
	}
	var oldest int64
	if err := tx.QueryRow(ctx, `
		SELECT MIN(started_at)
		FROM certificate_starts
		WHERE organization_id = $1
		  AND started_at > $2`, r.organization, from).Scan(&oldest); err != nil {
		return time.Time{}, fmt.Errorf("spend budget: %w", err)
	}
	return db.Time(oldest).Add(budgetFor), nil
}

// watchNames looks at names when they are due, until ctx ends.
func (s *Sites) watchNames(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() {
		_ = s.db.Listen(ctx, s.hear) // it ends with ctx
	})
	going := &looking{of: map[contract.OrganizationID]int{}}
	failing := false
	for {
		wait, err := s.lookAtDue(ctx, going, &parts)
		if err != nil && ctx.Err() == nil && !failing {
			s.log.WarnContext(ctx, "names of sites can't be looked at", "err", err)
		}
		if failing = err != nil; failing {
			wait = 5 * time.Second
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-time.After(min(namesIdle, max(wait, 100*time.Millisecond))):
		}
	}
}

// hear takes in what others say: names that are due, and records that were made for an organization.
func (s *Sites) hear(topic, payload string) {
	switch topic {
	case s.config.RecordsTopic, s.config.ProvidersTopic:
		if payload == "" {
			break
		}
		// Listen's callers must not be kept waiting by a database: the loop does it.
		s.hints.Lock()
		s.made = append(s.made, payload)
		s.hints.Unlock()
	case namesTopic, "":
	default:
		return
	}
	s.wakeUp()
}

func (s *Sites) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default: // it is awake
	}
}

// looking counts the looks that go on, by organization.
type looking struct {
	sync.Mutex
	of map[contract.OrganizationID]int
}

func (l *looking) add(who contract.OrganizationID, n int) {
	l.Lock()
	defer l.Unlock()
	if l.of[who] += n; l.of[who] == 0 {
		delete(l.of, who)
	}
}

// busy are the organizations that have as many looks as they may.
func (l *looking) busy() string {
	l.Lock()
	defer l.Unlock()
	var all []string
	for who, n := range l.of {
		if n >= looksOfOne {
			all = append(all, who.String())
		}
	}
	return strings.Join(all, " ")
}

// lookAtDue begins looks at what is due, as far as there are places, and says how long there is nothing to begin.
func (s *Sites) lookAtDue(ctx context.Context, going *looking, parts *sync.WaitGroup) (time.Duration, error) {
	if err := s.recordsMade(ctx); err != nil {
		return 0, err
	}
	now := time.Now()
	var next sql.NullInt64
	if err := s.db.Reader().QueryRow(ctx, `SELECT MIN(look_at) FROM domains WHERE look_at IS NOT NULL`).Scan(&next); err != nil {
		return 0, err
	}
	if !next.Valid {
		return namesIdle, nil
	}
	if wait := time.UnixMicro(next.Int64).Sub(now); wait > 0 {
		return wait, nil
	}
	places := 0
	for range looksAtOnce {
		select {
		case s.looks <- struct{}{}:
			places++
		default:
		}
	}
	due, err := s.takeDue(ctx, now, places, going.busy())
	for range places - len(due) {
		<-s.looks
	}
	for _, r := range due {
		going.add(r.organization, 1)
		parts.Go(func() {
			defer s.wakeUp()
			defer func() { <-s.looks }()
			defer going.add(r.organization, -1)
			if err := s.lookAt(ctx, r); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "a name of a site can't be looked at", "name", r.name, "site", r.site, "err", err)
			}
		})
	}
	return time.Second, err
}

// takeDue gives names whose time has come, to whoever asks first, of each organization a few.
func (s *Sites) takeDue(ctx context.Context, now time.Time, n int, busy string) (due []nameRow, err error) {
	if n == 0 {
		return nil, nil
	}
	err = db.InTx(ctx, s.db, func(tx *db.Tx) error {
		due = nil
		rows, err := tx.Query(ctx, `
			UPDATE domains
			SET look_at = $1
			WHERE look_at <= $2
			  AND name IN (
				SELECT name
				FROM (
					SELECT name,
					       look_at,
					       ROW_NUMBER() OVER (PARTITION BY organization_id ORDER BY look_at, name) AS turn
					FROM domains
					WHERE look_at <= $2
					  AND $3 NOT LIKE '%' || organization_id || '%'
				) d
				WHERE turn <= $4
				ORDER BY look_at, name
				LIMIT $5
			  )
			RETURNING organization_id, site_id, name`,
			db.Micros(now.Add(lookLease)), db.Micros(now), busy, looksOfOne, n)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r nameRow
			if err := rows.Scan(&r.organization, &r.site, &r.name); err != nil {
				return err
			}
			due = append(due, r)
		}
		return rows.Err()
	}, db.ReadCommitted())
	if err != nil {
		return nil, fmt.Errorf("find names to look at: %w", err)
	}
	return due, nil
}

// recordsMade has the names looked at, often again, of organizations whose records were made.
func (s *Sites) recordsMade(ctx context.Context) error {
	s.hints.Lock()
	made := slices.Clone(s.made)
	s.made = s.made[:0]
	s.hints.Unlock()
	if len(made) == 0 {
		return nil
	}
	slices.Sort(made)
	return db.InTx(ctx, s.db, func(tx *db.Tx) error {
		for _, organization := range slices.Compact(made) {
			if _, err := tx.Exec(ctx, `
				UPDATE domains
				SET looks = 0,
				    look_at = $1
				WHERE organization_id = $2
				  AND ready_at IS NULL
				  AND look_at IS NOT NULL`,
				db.Micros(time.Now()), organization); err != nil {
				return fmt.Errorf("have the names of %s looked at: %w", organization, err)
			}
		}
		return nil
	}, db.ReadCommitted())
}
