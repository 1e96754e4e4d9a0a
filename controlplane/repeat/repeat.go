// Package repeat keeps a call that is sent twice from having its effect twice. A caller who does not know what became of a
// call sends it again with the same key, and gets the first one's answer. It knows neither methods nor messages: a request is
// a MAC, an answer is bytes.
//
// # The life of a key
//
//	a call with a key --> unknown   in the same commit as the call's effect
//	its answer        --> answered | failed | secret
//	24 hours later    --> gone
//
// Since the key is written in the transaction of the effect, there is never one without the other. The answer is written
// after it: where a process ends in between, the effect is there and its answer is lost, and a repeat is told so. An answer
// that shows a secret is never written; a repeat is told that, too.
package repeat

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
)

// Call is a call that its caller gave a key.
type Call struct {
	// Caller is who called: keys of different callers have nothing to do with each other.
	Caller string
	// Key is theirs.
	Key string
	// Request stands for the method and what it was asked: Seal makes it.
	Request []byte
}

// Outcome is what is known of a call.
type Outcome string

// Outcomes.
const (
	Unknown  Outcome = "unknown"  // it runs still, or its answer was lost
	Answered Outcome = "answered" // Answer is what it answered
	Failed   Outcome = "failed"   // Answer is its error
	Secret   Outcome = "secret"   // it answered with what is shown once
)

// Past is a call that was made before.
type Past struct {
	Outcome Outcome
	Answer  []byte
	Began   time.Time
}

// keepFor is how long a caller may wonder.
const keepFor = 24 * time.Hour

// ErrOther refuses a key that stands for another request.
var ErrOther = fault.Conflict("this key was used for another request: give each request its own")

// ErrRepeated ends the transaction of a call whose key another one has written meanwhile.
var ErrRepeated = errors.New("a call with this key was made meanwhile")

// Repeats keeps keys. It is safe for concurrent use.
type Repeats struct {
	db  *db.DB
	log *slog.Logger
}

// New keeps keys in a database, which must have its seal key.
func New(d *db.DB, log *slog.Logger) *Repeats { return &Repeats{db: d, log: log} }

// Seal makes the Request of a call.
func (r *Repeats) Seal(procedure string, request []byte) []byte {
	return r.db.Seal([]byte("repeat"), []byte(procedure), request)
}

// Find gives the call that was made with the same key, nil if there is none. It says ErrOther for one with another request.
func (r *Repeats) Find(ctx context.Context, c Call) (*Past, error) {
	var past Past
	var request []byte
	var began int64
	err := r.db.Reader().QueryRow(ctx, `
		SELECT request,
		       outcome,
		       answer,
		       began_at
		FROM repeats
		WHERE caller = $1
		  AND key = $2
		  AND began_at > $3`,
		c.Caller, c.Key, db.Micros(time.Now().Add(-keepFor))).Scan(&request, &past.Outcome, &past.Answer, &began)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("find repeat: %w", err)
	case len(c.Request) == 0 || !bytes.Equal(request, c.Request):
		return nil, ErrOther
	}
	past.Began = db.Time(began)
	return &past, nil
}

// Begin has the call's first effect under the context that it gives write the key. Where another call has written it, the
// transaction ends with ErrRepeated and without an effect.
func (r *Repeats) Begin(ctx context.Context, c Call) (context.Context, *db.First) {
	return db.WithFirst(ctx, func(ctx context.Context, tx *db.Tx) error {
		now := time.Now()
		n, err := tx.Exec(ctx, `
			INSERT INTO repeats (caller, key, request, began_at, outcome)
			VALUES ($1, $2, $3, $4, 'unknown')
			ON CONFLICT (caller, key) DO UPDATE
			SET request = excluded.request,
			    began_at = excluded.began_at,
			    outcome = excluded.outcome,
			    answer = NULL
			WHERE repeats.began_at <= $5`, // one that is over, but not pruned yet
			c.Caller, c.Key, c.Request, db.Micros(now), db.Micros(now.Add(-keepFor)))
		if err != nil {
			return fmt.Errorf("begin call: %w", err)
		}
		if n == 0 {
			return ErrRepeated
		}
		return nil
	})
}

// Keep writes what became of a call, also of one that had nothing to write.
func (r *Repeats) Keep(ctx context.Context, c Call, outcome Outcome, answer []byte) error {
	err := db.InTx(ctx, r.db, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO repeats (caller, key, request, began_at, outcome, answer)
			VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (caller, key) DO UPDATE
			SET outcome = excluded.outcome,
			    answer = excluded.answer
			WHERE repeats.request = excluded.request
			  AND repeats.outcome = 'unknown'`,
			c.Caller, c.Key, c.Request, db.Micros(time.Now()), string(outcome), answer)
		return err
	}, db.ReadCommitted())
	if err != nil {
		return fmt.Errorf("keep answer: %w", err)
	}
	return nil
}

const (
	pruneEvery = 10 * time.Minute
	pruneBatch = 1000 // rows, so that no other writer waits for long
)

// Run removes keys that are over. It ends with its context.
func (r *Repeats) Run(ctx context.Context) error {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		if err := r.Prune(ctx, time.Now()); err != nil && ctx.Err() == nil {
			r.log.ErrorContext(ctx, "keys of repeated calls were not pruned; they are in ten minutes", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Prune removes the keys that are over at now, in batches. Run calls it.
func (r *Repeats) Prune(ctx context.Context, now time.Time) error {
	for {
		var n int64
		err := db.InTx(ctx, r.db, func(tx *db.Tx) error {
			var err error
			n, err = tx.Exec(ctx, `
				DELETE FROM repeats
				WHERE (caller, key) IN (
					SELECT caller, key
					FROM repeats
					WHERE began_at <= $1
					LIMIT $2)`,
				db.Micros(now.Add(-keepFor)), pruneBatch)
			return err
		}, db.ReadCommitted())
		if err != nil || n < pruneBatch {
			return err
		}
	}
}
