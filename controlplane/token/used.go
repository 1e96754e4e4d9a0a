package token

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"chom.dev/controlplane/clock"
	"chom.dev/controlplane/db"
)

// uses are the last uses that are not written yet. A call only notes them in memory; Run writes them, many at a time.
type uses struct {
	mu    sync.Mutex
	noted map[string]use
}

type use struct {
	at   time.Time
	from string
}

const (
	// useEvery is how fine the record is: a token that is used all the time is written once in that time.
	useEvery = time.Minute
	// flushEvery bounds how much is lost when the process dies.
	flushEvery = 10 * time.Second
	// lastFlush is what the uses of the last seconds are worth at the end of the process.
	lastFlush = 2 * time.Second
)

// note keeps a use, unless one was written a moment ago.
func (u *uses) note(token string, now use, written time.Time) {
	if now.at.Sub(written) < useEvery {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.noted[token] = now
}

func (u *uses) take() map[string]use {
	u.mu.Lock()
	defer u.mu.Unlock()
	taken := u.noted
	u.noted = map[string]use{}
	return taken
}

// putBack keeps what could not be written, unless there is something newer.
func (u *uses) putBack(taken map[string]use) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for token, was := range taken {
		if u.noted[token].at.Before(was.at) {
			u.noted[token] = was
		}
	}
}

// Run writes when tokens were used and from where, and removes old ones, until ctx ends; then it writes the last of it.
func (t *Tokens) Run(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	var wall clock.Wall
	failing := false
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
			defer cancel()
			if err := t.Flush(last); err != nil {
				t.log.WarnContext(last, "the last uses of tokens are lost", "err", err)
			}
			return nil
		case <-tick.C:
			err := t.Flush(ctx)
			if err != nil && !failing && ctx.Err() == nil {
				t.log.WarnContext(ctx, "uses of tokens can't be written and wait", "err", err)
			}
			failing = err != nil
		case now := <-prune.C:
			if !wall.Trust(now) {
				continue
			}
			if _, err := t.Prune(ctx, now); err != nil && ctx.Err() == nil {
				t.log.WarnContext(ctx, "old tokens can't be removed", "err", err)
			}
		}
	}
}

// Flush writes what was noted. What can't be written is kept for the next time.
func (t *Tokens) Flush(ctx context.Context) error {
	taken := t.uses.take()
	if len(taken) == 0 {
		return nil
	}
	err := db.InTx(ctx, t.db, func(tx *db.Tx) error {
		// In one order, so that two processes do not wait for each other.
		for chunk := range slices.Chunk(slices.Sorted(maps.Keys(taken)), useChunk) {
			if err := saveUses(ctx, tx, chunk, taken); err != nil {
				return err
			}
		}
		return nil
	}, db.ReadCommitted())
	if err != nil {
		t.uses.putBack(taken)
		return fmt.Errorf("save uses of %d tokens: %w", len(taken), err)
	}
	return nil
}

// useChunk is how many tokens one statement takes: three parameters each, and SQLite takes 32,766.
const useChunk = 500

// saveUses names the columns of VALUES as both engines do by themselves.
func saveUses(ctx context.Context, tx *db.Tx, tokens []string, noted map[string]use) error {
	rows := make([]string, len(tokens))
	args := make([]any, 0, 3*len(tokens))
	for i, token := range tokens {
		rows[i] = fmt.Sprintf("($%d, CAST($%d AS BIGINT), $%d)", 3*i+1, 3*i+2, 3*i+3)
		args = append(args, token, db.Micros(noted[token].at), noted[token].from)
	}
	_, err := tx.Exec(ctx, `
		UPDATE tokens
		SET last_used_at = used.column2,
		    last_used_address = used.column3
		FROM (VALUES `+strings.Join(rows, ", ")+`) AS used
		WHERE tokens.id = used.column1
		  AND COALESCE(tokens.last_used_at, 0) < used.column2`, args...)
	return err
}
