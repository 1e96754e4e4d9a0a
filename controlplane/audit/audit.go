// Package audit is who did what. Each change writes its event in the transaction of the change itself: where the event
// cannot be written, nothing has happened.
//
// An event names things by their ids and says what changed in a few words. It never holds a secret. It is not a log: what
// programs do to each other stands there. Events are never changed and never deleted.
//
// # The chain
//
// The events of an organization are a chain, and so are those of the platform. Each holds a MAC over its own columns and the
// MAC of the event before:
//
//	event 1            event 2            event 3            head: 3, c
//	hash a = MAC(1) <- hash b = MAC(a,2) <- hash c = MAC(b,3)
//
// The key is not in the database (db.SetSealKey). Whoever has nothing but the database can thus make no event, change none,
// and take none out of the middle; Verify names the first that is wrong. What he can is to cut the end off, head and all.
// That is noticed through the heads that Heads writes into a file outside the database.
//
// There is a chain for each organization, not one for all, because appending waits for the event before to be
// committed: one organization never waits for another (see the benchmarks of Record).
package audit

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode"

	"chom.dev/controlplane/db"
)

// Platform stands for the platform itself where an organization is named.
const Platform = "00000000-0000-0000-0000-000000000000"

// Event is one line of the history.
type Event struct {
	// Organization that it happened to; Platform for servers, for people's own accounts and for all that belongs to nobody else.
	Organization string
	// Action is what was done: noun and verb, for example "site.create".
	Action string
	// Object is the id of what it was done to.
	Object string
	// Detail is what a reader wants to know besides, in words; may be empty.
	Detail string
	// Refused says that it was tried, but not let happen.
	Refused bool
}

// What is kept of each text, in bytes. Only Detail is ever longer than an id or a name.
const (
	maxDetail = 1000
	maxText   = 200
)

// Entry is an event as it was recorded.
type Entry struct {
	Event
	// Sequence is the event's place in its organization's chain: 1 for the first, without gaps.
	Sequence int64
	// Time in microseconds, by the clock of the control plane that recorded it.
	Time time.Time
	// Actor is who did it.
	Actor Actor
}

// Outcomes of an event.
const (
	Done    = "done"
	Refused = "refused"
)

// Outcome is Done or Refused.
func (e *Event) Outcome() string {
	if e.Refused {
		return Refused
	}
	return Done
}

// Record writes the event at the end of the caller's transaction, on behalf of the actor in ctx (see As). What cannot be
// recorded fails the transaction, so that nothing has happened.
//
// Texts are kept as one opaque value each: what could end a line or hide a part of it is replaced by U+FFFD, and what is too
// long is cut.
func Record(ctx context.Context, tx *db.Tx, e Event) error {
	if e.Organization == "" {
		return fmt.Errorf("record %s: it belongs to no organization, nor to the platform", e.Action)
	}
	r := rowOf(Entry{Event: e, Time: time.Now(), Actor: ActorOf(ctx)})
	tx.AtEnd("audit "+r.organization, func() error {
		if err := r.append(ctx, tx); err != nil {
			return fmt.Errorf("record %s: %w", e.Action, err)
		}
		return nil
	})
	return nil
}

// plain makes a stranger's text one that stays in its field, wherever it is shown.
func plain(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "")
	}
	return text
}
