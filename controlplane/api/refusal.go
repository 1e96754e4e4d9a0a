package api

import (
	"context"
	"sync"
	"time"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
)

// actorOf is who the audit trail will say that it was.
func actorOf(c *call) audit.Actor {
	actor := audit.Actor{Kind: audit.Stranger, Address: c.address, Request: c.id}
	if c.caller == nil {
		return actor
	}
	actor.Kind, actor.ID = audit.Person, c.caller.ID
	if c.caller.ID == "" {
		actor.Kind, actor.ID = audit.Organization, c.caller.Organization
	}
	actor.Session, actor.Token, actor.Impersonator = c.caller.Session, c.caller.Token, c.caller.Impersonator
	return actor
}

// refusals leave a trace of whoever reaches for what is not theirs; a bounded one, so that nobody can fill the trail with it.
type refusals struct {
	db      *db.DB
	metrics *metrics

	mu     sync.Mutex
	minute int64
	counts map[refusal]int
}

// refusal is what is counted together.
type refusal struct{ actor, procedure string }

const (
	// refusalsMax is how many of one caller and one method are recorded in a minute: more than somebody does by mistake.
	refusalsMax = 10
	// refusersMax bounds the memory for counting; the rest of a minute's callers share one count.
	refusersMax = 10_000
)

// record writes a refusal into the trail of the organization that its members should see it in, or counts it in the metrics
// when there were too many.
func (r *refusals) record(ctx context.Context, organization, procedure, object string) error {
	actor := audit.ActorOf(ctx)
	who := actor.ID
	if who == "" {
		who = actor.Address.String()
	}
	n := r.count(refusal{who, procedure}, time.Now())
	if n > refusalsMax {
		r.metrics.unrecorded.Inc()
		return nil
	}
	event := audit.Event{Organization: organization, Action: "access.refuse", Object: object, Detail: procedure, Refused: true}
	if n == refusalsMax {
		event.Detail += "; more of these in the same minute are not recorded"
	}
	return db.InTx(ctx, r.db, func(tx *db.Tx) error { return audit.Record(ctx, tx, event) }, db.ReadCommitted())
}

// count says how many there were in this minute, with this one.
func (r *refusals) count(one refusal, now time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if minute := now.Unix() / 60; minute != r.minute || r.counts == nil {
		r.minute, r.counts = minute, map[refusal]int{}
	}
	if _, known := r.counts[one]; !known && len(r.counts) >= refusersMax {
		one = refusal{}
	}
	r.counts[one]++
	return r.counts[one]
}

// trailOf is where a refusal about an organization belongs: with the organization when its own people were refused, else
// with the platform, since strangers write nothing into an organization's trail.
func trailOf(organization string, caller *account.Caller, role string) string {
	if role != "" || organization != "" && caller.Organization == organization {
		return organization
	}
	return audit.Platform
}
