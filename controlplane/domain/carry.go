package domain

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"chom.dev/controlplane/clock"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/dns"
	"chom.dev/proto/contract"
)

const (
	// providersAtOnce bounds what slow services can keep busy.
	providersAtOnce = 8
	// providersOfOne is how many of one organization have their turn at most while others wait: servers that let everybody wait are easily
	// set up.
	providersOfOne = 2
	// sweepEvery is for wake-ups that were lost, and for what other processes leave behind.
	sweepEvery = 5 * time.Second
	// turnFor is how long one process works with a provider before others, and other providers, have their turn.
	turnFor = 90 * time.Second
	// busyFor is when a process that works with a provider is taken for dead: a turn, the call in which it ends, and some.
	busyFor = turnFor + 40*time.Second
	// recordsAtOnce is how many records a turn is about.
	recordsAtOnce = 100
	// againMost bounds the pause of a record that fails; blockedFor is the pause of one that somebody else's is in the way of.
	againMost  = time.Hour
	blockedFor = time.Hour
	// madeFor is when it is looked whether a record is still there.
	madeFor = 24 * time.Hour
	// brokenFor is the pause of a provider whose turn we could not go through with.
	brokenFor = time.Minute
	// challengeFor is how long a record for a certificate authority is of use to anybody.
	challengeFor = time.Hour
)

// again is the pause after so many failures in a row: 5 seconds, and twice as long each time.
func again(tries int64) time.Duration {
	wait := min(againMost, 5*time.Second<<min(tries, 20))
	return wait/2 + rand.N(wait/2) // nobody comes back together with all others
}

// Run makes and removes records when they are due, until ctx ends.
func (p *Providers) Run(ctx context.Context) error {
	var under sync.WaitGroup
	defer under.Wait()
	under.Go(func() {
		// It ends with ctx, or with the database, which rounds notice.
		_ = p.db.Listen(ctx, func(topic, _ string) {
			if topic == dueTopic || topic == "" {
				p.look()
			}
		})
	})
	var wall clock.Wall
	failing := false
	for {
		now := time.Now()
		wait := sweepEvery
		if wall.Trust(now) {
			next, err := p.round(ctx, now, &under)
			if err != nil && ctx.Err() == nil && !failing {
				p.log.WarnContext(ctx, "DNS records can't be looked at", "err", err)
			}
			failing = err != nil
			wait = min(sweepEvery, max(next, 100*time.Millisecond))
			if failing {
				wait = sweepEvery
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-time.After(wait):
		}
	}
}

// look has Run look at what is due, now.
func (p *Providers) look() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// forgetEvery is how often it is looked for records that nobody wants any more and nobody has dropped.
const forgetEvery = time.Minute

// round begins the turns of providers with something due, and says how long there is nothing to do.
func (p *Providers) round(ctx context.Context, now time.Time, under *sync.WaitGroup) (time.Duration, error) {
	if now.Sub(p.forgot) >= forgetEvery {
		if err := p.forget(ctx, now); err != nil {
			return 0, err
		}
		p.forgot = now
	}
	free := cap(p.busy) - len(p.busy)
	if free == 0 {
		return sweepEvery, nil // the end of a turn wakes us
	}
	due, err := p.due(ctx, now, free, p.turns.full())
	if err != nil {
		return 0, err
	}
	for _, one := range due {
		if !p.turns.begin(one.organization, providersOfOne) {
			continue
		}
		p.busy <- struct{}{}
		under.Go(func() {
			defer p.look()
			defer func() { <-p.busy }()
			defer p.turns.end(one.organization)
			if err := p.turn(ctx, one); err != nil && ctx.Err() == nil {
				p.log.WarnContext(ctx, "a DNS provider's records can't be carried", "provider", one.id, "err", err)
			}
		})
	}
	return p.untilNext(ctx, now, p.turns.full()) // the end of a turn wakes us
}

// turns counts those that go on in this process, by organization.
type turns struct {
	sync.Mutex
	of map[contract.OrganizationID]int
}

func newTurns() turns { return turns{of: map[contract.OrganizationID]int{}} }

// begin counts one more, unless the organization has as many as it may.
func (t *turns) begin(who contract.OrganizationID, most int) bool {
	t.Lock()
	defer t.Unlock()
	if t.of[who] >= most {
		return false
	}
	t.of[who]++
	return true
}

func (t *turns) end(who contract.OrganizationID) {
	t.Lock()
	defer t.Unlock()
	if t.of[who]--; t.of[who] == 0 {
		delete(t.of, who)
	}
}

// full are the organizations that have as many as they may.
func (t *turns) full() string {
	t.Lock()
	defer t.Unlock()
	var all []string
	for who, n := range t.of {
		if n >= providersOfOne {
			all = append(all, who.String())
		}
	}
	return strings.Join(all, " ")
}

// forget has records for certificate authorities removed that nobody took back, and proofs of claims that are no more.
func (p *Providers) forget(ctx context.Context, now time.Time) error {
	return db.InTx(ctx, p.db, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE dns_records
			SET state = 'removing',
			    tries = 0,
			    due_at = $1
			WHERE type = 'TXT'
			  AND state <> 'removing'
			  AND CASE WHEN purpose = 'challenge'
			      THEN created_at <= $2
			      ELSE NOT EXISTS (
			          SELECT 1
			          FROM claims c
			          WHERE c.organization_id = dns_records.organization_id
			            AND c.id = dns_records.purpose
			            AND c.state <> 'released'
			      ) END`, db.Micros(now), db.Micros(now.Add(-challengeFor)))
		return err
	})
}

// providerRow is a provider as the worker needs it.
type providerRow struct {
	organization contract.OrganizationID
	id           string
	sealed       []byte
}

// due are providers with something to do that no process works with, of each organization a few, and none of those that are full.
// First come those for which a certificate authority waits, then those that wait for longest.
func (p *Providers) due(ctx context.Context, now time.Time, most int, full string) ([]providerRow, error) {
	rows, err := p.db.Reader().Query(ctx, `
		SELECT organization_id, id, sealed
		FROM (
			SELECT p.organization_id, p.id, p.sealed, r.challenges, r.since,
			       ROW_NUMBER() OVER (PARTITION BY p.organization_id ORDER BY r.challenges DESC, r.since, p.id) AS turn
			FROM dns_providers p
			JOIN (
				SELECT provider_id,
				       MIN(due_at) AS since,
				       MAX(CASE WHEN purpose = 'challenge' AND state = 'making' THEN 1 ELSE 0 END) AS challenges
				FROM dns_records
				WHERE due_at <= $1
				GROUP BY provider_id
			) r ON r.provider_id = p.id
			WHERE p.busy_until <= $1
			  AND $2 NOT LIKE '%' || p.organization_id || '%'
		) d
		WHERE turn <= $3
		ORDER BY challenges DESC, since
		LIMIT $4`, db.Micros(now), full, providersOfOne, most)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []providerRow
	for rows.Next() {
		var one providerRow
		if err := rows.Scan(&one.organization, &one.id, &one.sealed); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

func (p *Providers) untilNext(ctx context.Context, now time.Time, full string) (time.Duration, error) {
	var next int64
	err := p.db.Reader().QueryRow(ctx, `
		SELECT COALESCE(MIN(r.due_at), 0)
		FROM dns_records r
		JOIN dns_providers p ON p.id = r.provider_id
		WHERE r.due_at IS NOT NULL
		  AND p.busy_until <= $1
		  AND $2 NOT LIKE '%' || p.organization_id || '%'`, db.Micros(now), full).Scan(&next)
	if err != nil || next == 0 {
		return sweepEvery, err
	}
	return db.Time(next).Sub(now), nil
}

// turn works with one provider for a while, as the only one in all processes: services that replace whole sets of records would
// lose one of two changes at once.
func (p *Providers) turn(ctx context.Context, of providerRow) error {
	now := time.Now()
	var mine bool
	if err := db.InTx(ctx, p.db, func(tx *db.Tx) error {
		changed, err := tx.Exec(ctx, `
			UPDATE dns_providers
			SET busy_until = $3
			WHERE organization_id = $1
			  AND id = $2
			  AND busy_until <= $4`, of.organization, of.id, db.Micros(now.Add(busyFor)), db.Micros(now))
		mine = changed > 0
		return err
	}); err != nil || !mine {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, turnFor)
	defer cancel()
	problem, err := p.carry(bounded, of)
	until, called, said := time.Time{}, sql.NullInt64{}, sql.NullString{} // what is not known stays as it was
	switch {
	case err == nil:
		called, said = db.NullMicros(time.Now()), sql.NullString{String: problem, Valid: true}
	case errors.Is(err, errUnusable):
		said = sql.NullString{String: errUnusable.Error(), Valid: true}
	}
	if err != nil && ctx.Err() == nil {
		until = time.Now().Add(brokenFor) // the fault is ours: it will not go by asking at once
	}
	// Another process must not wait for one that stops.
	ended, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer done()
	return errors.Join(err, db.InTx(ended, p.db, func(tx *db.Tx) error {
		_, err := tx.Exec(ended, `
			UPDATE dns_providers
			SET busy_until = $3,
			    called_at = COALESCE($4, called_at),
			    problem = COALESCE($5, problem)
			WHERE organization_id = $1
			  AND id = $2`, of.organization, of.id, db.Micros(until), called, said)
		return err
	}))
}

// carry does what is due with a provider and says what failed last; nothing where all went well.
func (p *Providers) carry(ctx context.Context, of providerRow) (problem string, err error) {
	due, err := p.dueRecords(ctx, of)
	if err != nil {
		return "", err
	}
	service, err := p.open(of)
	if err != nil {
		return "", err
	}
	for len(due) > 0 {
		w := &zoneWork{p: p, service: service, zone: due[0].zone}
		var there, elsewhere []recordRow
		for _, r := range due {
			if r.zone == w.zone {
				there = append(there, r)
			} else {
				elsewhere = append(elsewhere, r)
			}
		}
		said, err := w.carry(ctx, of, there)
		if err != nil || ctx.Err() != nil {
			return problem, err
		}
		problem = cmp.Or(said, problem)
		due = elsewhere
	}
	return problem, nil
}

// errUnusable says that the fault is ours: the service was not called.
var errUnusable = errors.New("CHOM cannot use its credentials: connect it again")

// open prepares to speak to a provider's service; errUnusable when its credentials can't be read.
func (p *Providers) open(of providerRow) (Service, error) {
	plain, err := p.config.Keys.Open(credentialsPlace(of.organization, of.id), of.sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnusable, err)
	}
	credentials, err := dns.Decode(plain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnusable, err)
	}
	service, err := p.config.Open(credentials)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnusable, err)
	}
	return service, nil
}

// dueRecords are the records of a provider with something to do; those first that a certificate authority waits for.
func (p *Providers) dueRecords(ctx context.Context, of providerRow) ([]recordRow, error) {
	rows, err := p.db.Reader().Query(ctx, recordColumns+`
		WHERE organization_id = $1
		  AND provider_id = $2
		  AND due_at <= $3
		ORDER BY CASE WHEN purpose = 'challenge' AND state = 'making' THEN 0 ELSE 1 END, due_at, id
		LIMIT $4`, of.organization, of.id, db.Micros(time.Now()), recordsAtOnce)
	if err != nil {
		return nil, err
	}
	return scanRecords(rows)
}

// zoneWork is what is done in one zone in one turn.
type zoneWork struct {
	p       *Providers
	service Service
	zone    string
	have    []dns.Record // in the zone
	ours    []dns.Record // that we have given to the provider, whether they are there or not
}

// carry does what is due about records of the zone.
func (w *zoneWork) carry(ctx context.Context, of providerRow, due []recordRow) (problem string, err error) {
	if w.ours, err = w.sent(ctx, of); err != nil {
		return "", err
	}
	var failed error
	w.have, failed = w.service.Records(ctx, w.zone)
	select {
	case <-ctx.Done():
		return "", nil // it is due again at once, in another turn
	default:
	}
	if failed != nil {
		problem = fmt.Sprintf("the zone %s can't be read: %s", w.zone, failed)
		for _, r := range due {
			if err := w.p.failed(ctx, r, problem); err != nil {
				return problem, err
			}
		}
		return problem, nil
	}
	for _, r := range due {
		step := w.make
		if r.State == Removing {
			step = w.remove
		}
		said, err := step(ctx, r)
		if err != nil || ctx.Err() != nil {
			return problem, err
		}
		if said != "" {
			problem = said
			if err := w.p.failed(ctx, r, said); err != nil {
				return problem, err
			}
		}
	}
	return problem, nil
}

func (w *zoneWork) sent(ctx context.Context, of providerRow) ([]dns.Record, error) {
	rows, err := w.p.db.Reader().Query(ctx, recordColumns+`
		WHERE organization_id = $1
		  AND provider_id = $2
		  AND zone = $3
		  AND sent`, of.organization, of.id, w.zone)
	if err != nil {
		return nil, err
	}
	found, err := scanRecords(rows)
	var all []dns.Record
	for _, r := range found {
		all = append(all, r.dns())
	}
	return all, err
}

// place is what decide finds in the place of a record that is to be made.
type place int

const (
	free place = iota
	ours
	same // somebody else's, just as ours would be
	taken
)

// decide says what is in the place of a record that is to be made, and by what it is taken.
func decide(r dns.Record, sent bool, have, known []dns.Record) (place, dns.Record) {
	if slices.ContainsFunc(have, r.Same) {
		if sent {
			return ours, dns.Record{}
		}
		return same, dns.Record{}
	}
	for _, other := range have {
		if other.Name != r.Name || slices.ContainsFunc(known, other.Same) {
			continue
		}
		switch other.Type {
		case "CNAME", "ALIAS", "ANAME":
			return taken, other
		case "A", "AAAA":
			if r.Type != "TXT" {
				return taken, other
			}
		}
	}
	return free, dns.Record{}
}

// make gives a record to the provider, unless something of somebody else's is in its place.
func (w *zoneWork) make(ctx context.Context, r recordRow) (problem string, err error) {
	record := r.dns()
	switch found, by := decide(record, r.sent, w.have, w.ours); found {
	case ours:
		if r.State == Made {
			return "", w.p.still(ctx, r)
		}
		return "", w.p.made(ctx, r)
	case same:
		return "", w.p.blocked(ctx, r, "")
	case taken:
		return "", w.p.blocked(ctx, r, fmt.Sprintf("%s has the record %s %s, which CHOM has not made and does not touch: remove it, or leave it as it is", by.Name, by.Type, shorten(by.Value)))
	}
	// From here on it may be there, whatever becomes of us.
	if still, err := w.p.sending(ctx, r); err != nil || !still {
		return "", err
	}
	if err := w.service.Append(ctx, w.zone, record); err != nil {
		return fmt.Sprintf("%s %s can't be made: %s", r.Type, r.Name, err), nil
	}
	w.have, w.ours = append(w.have, record), append(w.ours, record)
	return "", w.p.made(ctx, r)
}

// remove takes a record from the provider if we gave it.
func (w *zoneWork) remove(ctx context.Context, r recordRow) (problem string, err error) {
	if at := slices.IndexFunc(w.have, r.dns().Same); at >= 0 && r.sent {
		if err := w.service.Delete(ctx, w.zone, w.have[at]); err != nil {
			return fmt.Sprintf("%s %s can't be removed: %s", r.Type, r.Name, err), nil
		}
		w.have = slices.Delete(w.have, at, at+1)
	}
	return "", db.InTx(ctx, w.p.db, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `
			DELETE FROM dns_records
			WHERE organization_id = $1
			  AND id = $2
			  AND state = 'removing'`, r.organization, r.ID)
		return err
	})
}

// sending writes down that a record is about to be given to the provider, if it is still wanted.
func (p *Providers) sending(ctx context.Context, r recordRow) (still bool, err error) {
	err = db.InTx(ctx, p.db, func(tx *db.Tx) error {
		changed, err := tx.Exec(ctx, `
			UPDATE dns_records
			SET sent = TRUE
			WHERE organization_id = $1
			  AND id = $2
			  AND state <> 'removing'`, r.organization, r.ID)
		still = changed > 0
		return err
	})
	return still, err
}

// made writes down that the provider has a record. A claim that waited for it is looked at at once.
func (p *Providers) made(ctx context.Context, r recordRow) error {
	return db.InTx(ctx, p.db, func(tx *db.Tx) error {
		changed, err := tx.Exec(ctx, `
			UPDATE dns_records
			SET state = 'made',
			    problem = '',
			    tries = 0,
			    due_at = $3
			WHERE organization_id = $1
			  AND id = $2
			  AND state <> 'removing'`, r.organization, r.ID, db.Micros(time.Now().Add(madeFor)))
		if err != nil || changed == 0 {
			return err
		}
		if r.Type == "TXT" && r.Purpose != Challenge {
			if _, err := tx.Exec(ctx, `
				UPDATE claims
				SET looks = 0,
				    look_at = $3
				WHERE organization_id = $1
				  AND id = $2
				  AND state = 'pending'`, r.organization, r.Purpose, db.Micros(time.Now())); err != nil {
				return err
			}
		}
		if r.Purpose != Challenge {
			tx.Notify(RecordsTopic, r.organization.String())
		}
		return nil
	})
}

// still writes down that the provider has a record yet.
func (p *Providers) still(ctx context.Context, r recordRow) error {
	return db.InTx(ctx, p.db, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE dns_records
			SET problem = '',
			    tries = 0,
			    due_at = $3
			WHERE organization_id = $1
			  AND id = $2
			  AND state = 'made'`, r.organization, r.ID, db.Micros(time.Now().Add(madeFor)))
		return err
	})
}

// blocked writes down that something else is in the place of a record.
func (p *Providers) blocked(ctx context.Context, r recordRow, problem string) error {
	return db.InTx(ctx, p.db, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE dns_records
			SET state = 'in_the_way',
			    problem = $3,
			    tries = 0,
			    due_at = $4
			WHERE organization_id = $1
			  AND id = $2
			  AND state <> 'removing'`, r.organization, r.ID, problem, db.Micros(time.Now().Add(blockedFor)))
		return err
	})
}

// failed writes down why a record could not be made or removed, and when that is tried again.
func (p *Providers) failed(ctx context.Context, r recordRow, problem string) error {
	return db.InTx(ctx, p.db, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE dns_records
			SET problem = $4,
			    tries = tries + 1,
			    due_at = $5
			WHERE organization_id = $1
			  AND id = $2
			  AND state = $3`, r.organization, r.ID, r.State, problem, db.Micros(time.Now().Add(again(r.tries))))
		return err
	})
}
