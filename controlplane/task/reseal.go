package task

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"time"

	"chom.dev/controlplane/db"
)

// sealKey is what Enqueue seals by: whoever has the signer has it too.
func sealKey(signer ed25519.PrivateKey) ([]byte, error) {
	return hkdf.Key(sha256.New, signer.Seed(), nil, "chom task seal v1", sha256.Size)
}

// Reseal takes over the tasks that were sealed before the signer was rotated, so
// that they are still done; former is the signer before. A seal that is not
// former's stays what it is: by the present signer, or forged. Call it before
// Run, and until it succeeds keep former.
func (ts *Tasks) Reseal(ctx context.Context, former ed25519.PrivateKey) error {
	key, err := sealKey(former)
	if err != nil {
		return fmt.Errorf("reseal tasks: %w", err)
	}
	err = db.InTx(ctx, ts.db, func(tx *db.Tx) error {
		sealed, err := openSealed(ctx, tx)
		if err != nil {
			return err
		}
		for _, s := range sealed {
			parts := s.task.sealed(s.parameters)
			if !hmac.Equal(s.seal, db.Seal(key, parts...)) {
				continue
			}
			_, err := tx.Exec(ctx, `
				UPDATE tasks
				SET seal = $2
				WHERE id = $1`, s.task.ID, tx.SealOrder(parts...))
			if err != nil {
				return err
			}
		}
		return nil
	}, db.ReadCommitted()) // what a seal covers never changes
	if err != nil {
		return fmt.Errorf("reseal tasks: %w", err)
	}
	return nil
}

// sealedTask is what a seal covers of a task that may still be signed.
type sealedTask struct {
	task       Task
	parameters []byte
	seal       []byte
}

func openSealed(ctx context.Context, tx *db.Tx) ([]sealedTask, error) {
	rows, err := tx.Query(ctx, `
		SELECT id, organization_id, server_id, site_id, kind, generation, deadline_at, timeout_us, parameters, seal
		FROM tasks
		WHERE state IN ('queued', 'offered', 'running', 'unknown')`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []sealedTask
	for rows.Next() {
		var s sealedTask
		var deadline, timeout int64
		t := &s.task
		if err := rows.Scan(&t.ID, &t.Organization, &t.Server, &t.Site, &t.Kind, &t.Generation, &deadline, &timeout, &s.parameters, &s.seal); err != nil {
			return nil, err
		}
		t.Deadline, t.timeout = db.Time(deadline), time.Duration(timeout)*time.Microsecond
		all = append(all, s)
	}
	return all, rows.Err()
}
