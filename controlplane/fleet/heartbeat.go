package fleet

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

// beats are the heartbeats that are not written yet, the newest of each server.
type beats struct {
	mu   sync.Mutex
	seen map[contract.ServerID]time.Time
}

// Beat notes that a server was heard of. It only touches memory; Run writes it.
func (f *Fleet) Beat(server contract.ServerID, now time.Time) { f.beats.note(server, now) }

func (b *beats) note(server contract.ServerID, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen[server].Before(now) {
		b.seen[server] = now
	}
}

func (b *beats) take() map[contract.ServerID]time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.seen
	b.seen = make(map[contract.ServerID]time.Time, len(taken))
	return taken
}

const (
	// flushEvery bounds how many transactions heartbeats cost, whatever the number of servers.
	flushEvery = time.Second
	// lastFlush is what the heartbeats of the last second are worth at the end of the process.
	lastFlush = 2 * time.Second
)

// Run writes heartbeats once a second until ctx ends, then the last of them. Beside that it has servers prepared again.
func (f *Fleet) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	defer loops.Wait()
	loops.Go(func() { f.runPrepares(ctx) })
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
			defer cancel()
			if err := f.flush(last); err != nil {
				f.log.Warn("the last heartbeats are lost", "err", err)
			}
			return ctx.Err()
		case <-tick.C:
			err := f.flush(ctx)
			if err != nil && !failing && ctx.Err() == nil {
				f.log.Warn("heartbeats can't be written and wait", "err", err)
			}
			failing = err != nil
		}
	}
}

// flush writes what was noted. What can't be written is kept for the next time.
func (f *Fleet) flush(ctx context.Context) error {
	seen := f.beats.take()
	if len(seen) == 0 {
		return nil
	}
	err := db.InTx(ctx, f.db, func(tx *db.Tx) error { return saveBeats(ctx, tx, seen) }, db.ReadCommitted())
	if err != nil {
		for server, at := range seen {
			f.beats.note(server, at)
		}
		return fmt.Errorf("save %d heartbeats: %w", len(seen), err)
	}
	return nil
}

// beatChunk is how many servers one statement takes: two parameters each, and SQLite takes 32,766. There are two texts of
// the statement only, so that it stays prepared; the last rows of a chunk that is not full repeat its last server.
const (
	beatChunk      = 1000
	beatChunkSmall = 16
)

var (
	saveBeatsText      = saveBeatsStatement(beatChunk)
	saveBeatsTextSmall = saveBeatsStatement(beatChunkSmall)
)

// saveBeatsStatement names the columns of VALUES as both engines do by themselves.
func saveBeatsStatement(rows int) string {
	var b strings.Builder
	b.WriteString(`
		UPDATE server_links
		SET last_seen_at = seen.column2
		FROM (VALUES `)
	for i := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "($%d, CAST($%d AS BIGINT))", 2*i+1, 2*i+2)
	}
	b.WriteString(`) AS seen
		WHERE server_links.server_id = seen.column1
		  AND (COALESCE(server_links.last_seen_at, 0) < seen.column2 OR server_links.last_seen_at > seen.column2 + `)
	fmt.Fprintf(&b, "%d)", OnlineFor.Microseconds()) // by a clock that has been set back since
	return b.String()
}

func saveBeats(ctx context.Context, tx *db.Tx, seen map[contract.ServerID]time.Time) error {
	// In order, so that two replicas lock rows in the same order.
	servers := slices.SortedFunc(maps.Keys(seen), func(a, b contract.ServerID) int { return cmp.Compare(a.String(), b.String()) })
	for len(servers) > 0 {
		size, text := beatChunk, saveBeatsText
		if len(servers) <= 4*beatChunkSmall {
			size, text = beatChunkSmall, saveBeatsTextSmall
		}
		args := make([]any, 0, 2*size)
		for i := range size {
			server := servers[min(i, len(servers)-1)]
			args = append(args, server.String(), db.Micros(seen[server]))
		}
		if _, err := tx.Exec(ctx, text, args...); err != nil {
			return err
		}
		servers = servers[min(size, len(servers)):]
	}
	return nil
}
