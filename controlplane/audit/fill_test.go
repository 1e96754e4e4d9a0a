package audit

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/db"
)

// Fill gives a new organization very many events at once, as Record would have written them one after the other.
func Fill(ctx context.Context, d *db.DB, events int) (organization string, err error) {
	const batch = 500
	organization = uuid.NewString()
	previous := &row{hash: []byte{}}
	for int(previous.sequence) < events {
		err := db.InTx(ctx, d, func(tx *db.Tx) error {
			var values []string
			var args []any
			for range min(batch, events-int(previous.sequence)) {
				r := rowOf(Entry{
					Event: Event{Organization: organization, Action: "site.update", Object: uuid.NewString(), Detail: "domains: a.example.com, b.example.com"},
					Time:  time.Now(),
					Actor: Actor{Kind: Person, ID: uuid.NewString(), Session: uuid.NewString(), Request: uuid.NewString()},
				})
				r.sequence = previous.sequence + 1
				r.hash = tx.Seal(r.parts(previous.hash)...)
				values = append(values, "("+db.Placeholders(len(args)+1, 15)+")")
				args = append(args, r.organization, r.sequence, r.at, r.actor, r.actorID, r.session, r.token, r.impersonator, r.address, r.request,
					r.action, r.object, r.detail, r.outcome, r.hash)
				previous = r
			}
			if _, err := tx.Exec(ctx, `INSERT INTO audit_events (`+columns+`) VALUES `+strings.Join(values, ", "), args...); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `
				INSERT INTO audit_heads (organization_id, sequence, hash)
				VALUES ($1, $2, $3)
				ON CONFLICT (organization_id) DO UPDATE SET sequence = excluded.sequence, hash = excluded.hash`,
				organization, previous.sequence, previous.hash)
			return err
		})
		if err != nil {
			return "", fmt.Errorf("fill: %w", err)
		}
	}
	return organization, nil
}
