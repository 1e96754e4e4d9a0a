package backup

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

// resignBatch bounds one transaction.
const resignBatch = 100

// Resign takes over the manifests that were signed before the signer was rotated, so that they can still be restored; former is the
// signer before. What is not signed by it stays what it is: by the present signer, or forged. The repositories get them by Run. Call it
// before Run, and until it succeeds keep former.
func (b *Backups) Resign(ctx context.Context, former ed25519.PrivateKey) error {
	public, ok := former.Public().(ed25519.PublicKey)
	if !ok || len(former) != ed25519.PrivateKeySize {
		return errors.New("sign manifests again: the former signer is not an Ed25519 key")
	}
	after := ""
	for {
		var all []Backup
		err := db.InTx(ctx, b.db, func(tx *db.Tx) error {
			rows, err := tx.Query(ctx, columns+`
				WHERE manifest IS NOT NULL
				  AND id > $1
				ORDER BY id
				LIMIT $2`, after, resignBatch)
			if err != nil {
				return err
			}
			if all, err = scanAll(rows); err != nil {
				return err
			}
			for _, one := range all {
				if err := b.resign(ctx, tx, one, public); err != nil {
					return err
				}
			}
			return nil
		}, db.ReadCommitted()) // a manifest is written once
		if err != nil {
			return fmt.Errorf("sign manifests again: %w", err)
		}
		if len(all) < resignBatch {
			return nil
		}
		after = all[len(all)-1].ID.String()
	}
}

func (b *Backups) resign(ctx context.Context, tx *db.Tx, one Backup, former ed25519.PublicKey) error {
	signed := &backupv1.SignedManifest{}
	if err := proto.Unmarshal(one.manifest, signed); err != nil {
		return nil //nolint:nilerr // it was never ours: nothing is restored from it
	}
	if _, err := contract.VerifyManifest([]ed25519.PublicKey{former}, signed); err != nil {
		return nil //nolint:nilerr // by the present signer, or forged
	}
	again, err := contract.SignManifestAgain(b.config.Signer, signed)
	if err != nil {
		return err
	}
	manifest, err := proto.MarshalOptions{Deterministic: true}.Marshal(again)
	if err != nil {
		return err
	}
	due := any(nil) // one that is no backup is looked at no more
	if one.State != Failed {
		due = db.Micros(time.Now())
	}
	_, err = tx.Exec(ctx, `
		UPDATE backups
		SET manifest = $3,
		    put = FALSE,
		    check_at = $4
		WHERE organization_id = $1
		  AND id = $2`, one.Organization, one.ID, manifest, due)
	return err
}
