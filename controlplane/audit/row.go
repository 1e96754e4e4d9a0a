package audit

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"

	"chom.dev/controlplane/db"
)

// row is an event as its table has it. The hash covers these values and no others: what they mean is decided after it was
// checked.
type row struct {
	organization, actor, actorID, session, token, impersonator, address, request, action, object, detail, outcome string
	sequence, at                                                                                                  int64
	hash                                                                                                          []byte
}

func rowOf(e Entry) *row {
	return &row{
		organization: plain(e.Organization, maxText),
		at:           db.Micros(e.Time),
		actor:        e.Actor.kind(),
		actorID:      plain(e.Actor.ID, maxText),
		session:      plain(e.Actor.Session, maxText),
		token:        plain(e.Actor.Token, maxText),
		impersonator: plain(e.Actor.Impersonator, maxText),
		address:      e.Actor.address(),
		request:      plain(e.Actor.Request, maxText),
		action:       plain(e.Action, maxText),
		object:       plain(e.Object, maxText),
		detail:       plain(e.Detail, maxDetail),
		outcome:      e.Outcome(),
	}
}

func (r *row) entry() Entry {
	// An address that is none was written by somebody else, and Verify says so.
	address, _ := netip.ParseAddr(r.address)
	return Entry{
		Event: Event{
			Organization: r.organization, Action: r.action, Object: r.object, Detail: r.detail, Refused: r.outcome == Refused,
		},
		Sequence: r.sequence,
		Time:     db.Time(r.at),
		Actor: Actor{
			Kind: Kind(r.actor), ID: r.actorID, Session: r.session, Token: r.token, Impersonator: r.impersonator, Address: address, Request: r.request,
		},
	}
}

// parts are what the hash is made of: the hash before, and every column with its length in front.
func (r *row) parts(previous []byte) [][]byte {
	columns := make([]byte, 0, 512)
	for _, n := range []int64{r.sequence, r.at} {
		columns = binary.BigEndian.AppendUint64(columns, uint64(n))
	}
	for _, text := range []string{
		r.organization, r.actor, r.actorID, r.session, r.token, r.impersonator, r.address, r.request, r.action, r.object, r.detail, r.outcome,
	} {
		columns = binary.BigEndian.AppendUint32(columns, uint32(len(text)))
		columns = append(columns, text...)
	}
	return [][]byte{[]byte("audit event"), previous, columns}
}

var errNoKey = errors.New("there is no key to chain audit events with")

// append takes the next place in the chain and writes the row there.
func (r *row) append(ctx context.Context, tx *db.Tx) error {
	// Both changes of the head are INSERTs in form: an UPDATE looks the row up by reading, and on PostgreSQL what one reads
	// in a table of few rows makes transactions of other organizations fail.
	var previous []byte
	if err := tx.QueryRow(ctx, `
		INSERT INTO audit_heads (organization_id, sequence, hash)
		VALUES ($1, 1, $2)
		ON CONFLICT (organization_id) DO UPDATE SET sequence = audit_heads.sequence + 1
		RETURNING sequence, hash`,
		r.organization, []byte{}).Scan(&r.sequence, &previous); err != nil {
		return err
	}
	r.hash = tx.Seal(r.parts(previous)...)
	if len(r.hash) == 0 {
		return errNoKey
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO audit_events (`+columns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
		r.organization, r.sequence, r.at, r.actor, r.actorID, r.session, r.token, r.impersonator, r.address, r.request,
		r.action, r.object, r.detail, r.outcome, r.hash); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO audit_heads (organization_id, sequence, hash)
		VALUES ($1, $2, $3)
		ON CONFLICT (organization_id) DO UPDATE SET hash = excluded.hash`,
		r.organization, r.sequence, r.hash)
	return err
}

const columns = `
			organization_id, sequence, happened_at, actor, actor_id, session_id, token_id, impersonator_id, address, request_id,
			action, object, detail, outcome, hash`

// read gives the rows of a query for columns.
func read(ctx context.Context, q db.Querier, query string, args ...any) ([]*row, error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found []*row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.organization, &r.sequence, &r.at, &r.actor, &r.actorID, &r.session, &r.token, &r.impersonator, &r.address, &r.request,
			&r.action, &r.object, &r.detail, &r.outcome, &r.hash); err != nil {
			return nil, err
		}
		found = append(found, &r)
	}
	return found, rows.Err()
}
