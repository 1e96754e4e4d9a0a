package audit

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"chom.dev/controlplane/db"
)

// Damage is the first event of a chain that is not as it was recorded.
type Damage struct {
	Organization string
	// Sequence of the event.
	Sequence int64
	// What is wrong with it, in words: that it was changed, or that it is missing and how one knows.
	What string
}

// Checked says what Verify has read.
type Checked struct {
	Events, Chains int64
	// Damages has one entry for each chain that is not whole; none says that nothing was changed, taken out or cut off.
	Damages []Damage
}

// verifyPage is how many events are read at once: enough that reading costs more than asking.
const verifyPage = 5000

// Verify reads all events and checks every chain: each event's hash, that none is missing, and that the chain holds every
// head in exported (see ReadHeads). It can run while events are recorded. The database must have its seal key.
func (t *Trail) Verify(ctx context.Context, exported []Head) (Checked, error) {
	// Heads are read before events: what is recorded meanwhile makes chains longer, never shorter.
	heads, err := readHeads(ctx, t.db.Reader())
	if err != nil {
		return Checked{}, fmt.Errorf("verify audit events: %w", err)
	}
	v := &verifier{db: t.db, promised: map[string][]Head{}}
	for _, h := range append(heads, exported...) {
		v.promised[h.Organization] = append(v.promised[h.Organization], h)
	}
	for after := (&row{}); after != nil; {
		if after, err = v.page(ctx, after); err != nil {
			return Checked{}, fmt.Errorf("verify audit events: %w", err)
		}
	}
	if err := v.end(ctx); err != nil {
		return Checked{}, fmt.Errorf("verify audit events: %w", err)
	}
	for organization, promises := range v.promised {
		v.missing(organization, 0, promises)
	}
	slices.SortFunc(v.Damages, func(a, b Damage) int { return cmp.Compare(a.Organization, b.Organization) })
	return v.Checked, nil
}

// verifier walks along one chain after the other.
type verifier struct {
	Checked
	db       *db.DB
	promised map[string][]Head // of chains that were not walked yet: what they must hold

	last    row    // of the chain that is walked; its sequence is 0 before the first
	heads   []Head // what this chain must hold further on, in order
	damaged bool   // this chain; the rest of it says nothing more
}

// page checks the rows behind another and gives the last of them, nil when there is none.
func (v *verifier) page(ctx context.Context, after *row) (*row, error) {
	rows, err := read(ctx, v.db.Reader(), `
		SELECT`+columns+`
		FROM audit_events
		WHERE (organization_id, sequence) > ($1, $2)
		ORDER BY organization_id, sequence
		LIMIT $3`, after.organization, after.sequence, verifyPage)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	for _, r := range rows {
		if r.organization != v.last.organization || v.Chains == 0 {
			if err := v.end(ctx); err != nil {
				return nil, err
			}
			v.begin(r.organization)
		}
		v.step(r)
	}
	return rows[len(rows)-1], nil
}

func (v *verifier) begin(organization string) {
	v.Chains++
	v.last = row{organization: organization, hash: []byte{}}
	v.heads, v.damaged = v.promised[organization], false
	slices.SortFunc(v.heads, func(a, b Head) int { return cmp.Compare(a.Sequence, b.Sequence) })
	delete(v.promised, organization)
}

func (v *verifier) step(r *row) {
	v.Events++
	switch {
	case v.damaged:
		return
	case r.sequence != v.last.sequence+1:
		v.damage(r.organization, v.last.sequence+1, fmt.Sprintf("is missing, and event %d follows", r.sequence))
		return
	case !v.db.CheckSeal(r.hash, r.parts(v.last.hash)...):
		v.damage(r.organization, r.sequence, "was changed")
		return
	}
	for ; len(v.heads) > 0 && v.heads[0].Sequence <= r.sequence; v.heads = v.heads[1:] {
		if h := v.heads[0]; h.Sequence == r.sequence && h.Hash != hex.EncodeToString(r.hash) {
			v.damage(r.organization, r.sequence, "is another one than "+h.source())
			return
		}
	}
	v.last = *r
}

// end looks whether the chain goes on as far as it must.
func (v *verifier) end(ctx context.Context) error {
	if v.Chains == 0 || v.damaged {
		return nil
	}
	if len(v.heads) > 0 {
		v.missing(v.last.organization, v.last.sequence, v.heads)
		return nil
	}
	var head int64
	err := v.db.Reader().QueryRow(ctx, `SELECT sequence FROM audit_heads WHERE organization_id = $1`, v.last.organization).Scan(&head)
	if errors.Is(err, sql.ErrNoRows) || err == nil && head < v.last.sequence {
		v.damage(v.last.organization, v.last.sequence, "lies behind the end of the chain: the head was set back")
		return nil
	}
	return err
}

// missing says that a chain ends before what it must hold.
func (v *verifier) missing(organization string, have int64, promises []Head) {
	far := slices.MaxFunc(promises, func(a, b Head) int { return cmp.Compare(a.Sequence, b.Sequence) })
	v.damage(organization, have+1, fmt.Sprintf("is missing, with all that followed: %s is event %d", far.source(), far.Sequence))
}

func (v *verifier) damage(organization string, sequence int64, what string) {
	v.damaged = true
	v.Damages = append(v.Damages, Damage{organization, sequence, what})
}
