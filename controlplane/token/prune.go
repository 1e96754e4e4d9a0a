package token

import (
	"context"
	"fmt"
	"time"

	"chom.dev/controlplane/db"
)

// A token that ended long ago is of no use to anybody: what was done with it, and by whom it was made, is in the audit.
const (
	pruneAfter = 30 * 24 * time.Hour
	pruneEvery = time.Hour
	// pruneBatch keeps a transaction short.
	pruneBatch = 1000
)

// Prune removes tokens that ended long before a moment, and says how many.
func (t *Tokens) Prune(ctx context.Context, now time.Time) (int64, error) {
	var pruned int64
	for {
		var n int64
		err := db.InTx(ctx, t.db, func(tx *db.Tx) (err error) {
			n, err = tx.Exec(ctx, `
				DELETE FROM tokens
				WHERE id IN (SELECT id FROM tokens WHERE COALESCE(revoked_at, expires_at) < $1 LIMIT $2)`,
				db.Micros(now.Add(-pruneAfter)), pruneBatch)
			return err
		}, db.ReadCommitted())
		if err != nil {
			return pruned, fmt.Errorf("prune tokens: %w", err)
		}
		if pruned += n; n < pruneBatch {
			return pruned, nil
		}
	}
}
