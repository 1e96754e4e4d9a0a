package domain

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"chom.dev/controlplane/clock"
	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

const (
	verifiedEvery = 24 * time.Hour
	lookTimeout   = 10 * time.Second
	// looksAtOnce bounds what a crowd of claims does to name servers.
	looksAtOnce = 16
	idle        = time.Minute // between two looks at the table, for what another process has written
)

// pause is how long a pending claim waits after so many looks: people set a record and watch, or come back tomorrow.
func pause(looks int64) time.Duration {
	switch {
	case looks < 24:
		return 5 * time.Second // two minutes
	case looks < 40:
		return time.Minute
	case looks < 100:
		return 10 * time.Minute
	}
	return time.Hour
}

// Check looks for a claim's record now and returns what came of it.
func (d *Domains) Check(ctx context.Context, organization contract.OrganizationID, id string) (Claim, error) {
	r, err := one(ctx, d.db.Reader(), organization, id)
	if err != nil || r.State == Released || r.Proof == Operator {
		return r.Claim, err
	}
	return d.lookFor(ctx, r)
}

// lookFor asks the DNS for a claim's record and writes down what that means.
func (d *Domains) lookFor(ctx context.Context, r row) (Claim, error) {
	problem := d.ask(ctx, r.Record)
	now := time.Now()
	var after row
	err := db.InTx(ctx, d.db, func(tx *db.Tx) (err error) {
		// It may have been released, or proved by another's look, while the DNS was asked.
		if after, err = one(ctx, tx, r.Organization, r.ID); err != nil || after.State == Released || after.Proof == Operator {
			return err
		}
		after.LookedAt, after.Problem = now, problem
		if after.State == Pending && problem == "" {
			switch err := settle(ctx, tx, &after, DNS, now); {
			case errors.Is(err, ErrHeld):
				after.Problem = "the record is there, but " + ErrHeld.Error()
			case err != nil:
				return err
			default:
				return nil
			}
		}
		after.looks++
		after.NextLookAt = now.Add(verifiedEvery)
		if after.State == Pending {
			after.NextLookAt = now.Add(pause(after.looks))
		}
		return after.save(ctx, tx)
	})
	if err != nil {
		return Claim{}, fmt.Errorf("look for the record of %s: %w", r.Name, err)
	}
	return after.Claim, nil
}

// ask says what is wrong with a record as the DNS has it; nothing for one that is right.
func (d *Domains) ask(ctx context.Context, wanted Record) string {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	texts, err := d.config.Resolver.LookupTXT(ctx, wanted.Name+".")
	var failed *net.DNSError
	switch {
	case slices.Contains(texts, wanted.Value):
		return ""
	case errors.As(err, &failed) && failed.IsNotFound || err == nil && len(texts) == 0:
		return fmt.Sprintf("there is no TXT record %s", wanted.Name)
	case err != nil:
		return fmt.Sprintf("the name servers of %s do not answer", wanted.Name)
	}
	return fmt.Sprintf("the TXT record %s has another value: %s", wanted.Name, shorten(strings.Join(texts, ", ")))
}

// shorten makes a stranger's text one that can be shown.
func shorten(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if runes := []rune(text); len(runes) > 100 {
		text = string(runes[:100]) + "…"
	}
	return fmt.Sprintf("%q", text)
}

// look has Run look at what is due, now.
func (d *Domains) look() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run looks for the records of claims when they are due and forgets what is over, until ctx ends.
func (d *Domains) Run(ctx context.Context) error {
	var hearing sync.WaitGroup
	defer hearing.Wait()
	hearing.Go(func() {
		// It ends with ctx, or with the database, which rounds notice.
		_ = d.db.Listen(ctx, func(topic, _ string) {
			if topic == RecordsTopic || topic == "" {
				d.look()
			}
		})
	})
	var wall clock.Wall
	failing := false
	for {
		now := time.Now()
		wait := idle
		if wall.Trust(now) {
			next, err := d.round(ctx, now)
			if err != nil && ctx.Err() == nil && !failing {
				d.log.WarnContext(ctx, "claims can't be looked at", "err", err)
			}
			failing = err != nil
			wait = min(idle, max(next, 100*time.Millisecond))
			if failing {
				wait = 5 * time.Second
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		case <-time.After(wait):
		}
	}
}

// round does what is due and says how long there is nothing to do.
func (d *Domains) round(ctx context.Context, now time.Time) (time.Duration, error) {
	if err := d.forget(ctx, now); err != nil {
		return 0, err
	}
	due, err := d.due(ctx, now)
	if err != nil {
		return 0, err
	}
	ended := make(chan error, len(due))
	for _, r := range due {
		go func() {
			_, err := d.lookFor(ctx, r)
			ended <- err
		}()
	}
	var failed error
	for range due {
		if err := <-ended; err != nil && !errors.Is(err, ErrNotFound) {
			failed = err
		}
	}
	if failed != nil || len(due) == looksAtOnce {
		return 0, failed
	}
	return d.untilNext(ctx, now)
}

// due are claims whose records are to be looked for.
func (d *Domains) due(ctx context.Context, now time.Time) ([]row, error) {
	rows, err := d.db.Reader().Query(ctx, columns+`
		WHERE look_at <= $1
		ORDER BY look_at
		LIMIT $2`, db.Micros(now), looksAtOnce)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []row
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

func (d *Domains) untilNext(ctx context.Context, now time.Time) (time.Duration, error) {
	var next int64
	err := d.db.Reader().QueryRow(ctx, `SELECT COALESCE(MIN(look_at), 0) FROM claims WHERE look_at IS NOT NULL`).Scan(&next)
	if err != nil || next == 0 {
		return idle, err
	}
	return db.Time(next).Sub(now), nil
}

// forget ends claims that nobody proved, and the time for which released names are kept.
func (d *Domains) forget(ctx context.Context, now time.Time) error {
	return db.InTx(ctx, d.db, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `
			DELETE FROM claims
			WHERE state = 'released' AND held_until <= $1
			   OR state = 'pending' AND created_at <= $2`,
			db.Micros(now), db.Micros(now.Add(-PendingFor)))
		return err
	})
}
