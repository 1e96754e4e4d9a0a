package secret

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
)

// errNothingNew is what Rotate says where it cannot make a key.
var errNothingNew = errors.New("all values are sealed with the newest key already: add a version where the keys come from, then rotate again")

// Rotate makes a new key and seals every value of the columns anew with it, while others read and write. Where an earlier
// rotation did not come to its end, it goes on with that one instead of making another key. Tell hears of each step when it
// is done.
//
// Afterwards the former keys seal nothing any more, except in transactions that were open at that moment: see Prune.
func Rotate(ctx context.Context, d *db.DB, k *Keyring, columns []Column, tell func(string)) error {
	unfinished, err := k.unfinished(ctx, d, columns)
	if err != nil {
		return fmt.Errorf("rotate secrets: %w", err)
	}
	if !unfinished {
		if err := Prepare(ctx, k, tell); err != nil {
			return err
		}
	}
	if err := k.activate(ctx, d, tell); err != nil {
		return fmt.Errorf("rotate secrets: %w", err)
	}
	if err := k.reseal(ctx, d, columns, tell); err != nil {
		return fmt.Errorf("rotate secrets: %w", err)
	}
	return nil
}

// Prepare makes a new key that opens but does not seal yet, unless there is one. Rotate goes on with it. Where several
// processes have a copy of the file each, all get the new copy in between, so that none meets a value that it cannot open.
func Prepare(ctx context.Context, k *Keyring, tell func(string)) error {
	file, ok := k.source.(*File)
	if !ok {
		return fmt.Errorf("rotate secrets: %w", errNothingNew)
	}
	if err := file.prepare(ctx); err != nil {
		return fmt.Errorf("rotate secrets: make a key: %w", err)
	}
	keys := k.Keys()
	tell(fmt.Sprintf("key version %d is in the file", keys[len(keys)-1].Version))
	return nil
}

// unfinished reports whether there is a key already that not all values are sealed with.
func (k *Keyring) unfinished(ctx context.Context, d *db.DB, columns []Column) (bool, error) {
	keys := k.Keys()
	if keys[len(keys)-1].Pending {
		return true, nil
	}
	for _, column := range columns {
		for batch, err := range column.cells(ctx, d.Reader()) {
			if err != nil {
				return false, err
			}
			for _, one := range batch {
				if version, err := VersionOf(one.sealed); err != nil || version != newestOf(keys).Version {
					return true, nil // a value that is none stops reseal, which says where it is
				}
			}
		}
	}
	return false, nil
}

// activate has the database know the last key, and makes it the newest.
func (k *Keyring) activate(ctx context.Context, d *db.DB, tell func(string)) error {
	keys := k.Keys()
	last := keys[len(keys)-1]
	err := db.InTx(ctx, d, func(tx *db.Tx) error {
		var known int
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM secret_keys WHERE version = $1`, last.Version).Scan(&known); err != nil {
			return err
		}
		if err := claim(ctx, tx, last); err != nil || known > 0 {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Organization: audit.Platform, Action: "secrets.rotate", Object: strconv.Itoa(int(last.Version))})
	})
	if err != nil {
		return err
	}
	tell(fmt.Sprintf("key version %d is known to the database", last.Version))
	if file, ok := k.source.(*File); ok && last.Pending {
		if err := file.activate(ctx, last.Version); err != nil {
			return fmt.Errorf("activate key version %d: %w", last.Version, err)
		}
	}
	tell(fmt.Sprintf("key version %d seals", last.Version))
	return nil
}

// reseal sweeps over all columns until no value is left that another key sealed: what was written while it swept may be.
func (k *Keyring) reseal(ctx context.Context, d *db.DB, columns []Column, tell func(string)) error {
	for {
		left := 0
		for _, column := range columns {
			done := 0
			for batch, err := range column.cells(ctx, d.Reader()) {
				if err != nil {
					return err
				}
				changed, err := k.resealBatch(ctx, d, column, batch)
				if err != nil {
					return fmt.Errorf("seal %s anew: %w", column, err)
				}
				if done += changed; changed > 0 {
					tell(fmt.Sprintf("%s: %d sealed anew", column, done))
				}
			}
			left += done
		}
		if left == 0 {
			return nil
		}
	}
}

// resealBatch says how many of the values had another key. Those that somebody changed meanwhile count, too.
func (k *Keyring) resealBatch(ctx context.Context, d *db.DB, column Column, batch []cell) (int, error) {
	anew := map[int][]byte{}
	for i, one := range batch {
		if version, err := VersionOf(one.sealed); err == nil && version == k.newest().Version {
			continue
		}
		plain, err := k.Open(one.place, one.sealed)
		if err != nil {
			return 0, err
		}
		anew[i], err = k.Seal(one.place, plain)
		clear(plain)
		if err != nil {
			return 0, err
		}
	}
	if len(anew) == 0 {
		return 0, nil
	}
	return len(anew), patiently(ctx, func() error {
		return db.InTx(ctx, d, func(tx *db.Tx) error {
			for i, one := range batch {
				if sealed, ok := anew[i]; ok {
					if _, err := column.replace(ctx, tx, one, sealed); err != nil {
						return err
					}
				}
			}
			return nil
		}, db.ReadCommitted()) // each row is decided on by its own UPDATE
	})
}

// patience is how long a rotation waits for a database that others keep busy.
const patience = time.Minute

// patiently repeats what a busy database refused.
func patiently(ctx context.Context, do func() error) error {
	for end := time.Now().Add(patience); ; {
		err := do()
		if fault.KindOf(err) != fault.KindUnavailable || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// pruneAfter is how long a new key must have been the newest before the ones before it may go: far longer than a transaction
// lives that had sealed a value with the former one.
const pruneAfter = 10 * time.Minute

// ErrTooSoon is what Prune says right after a rotation.
var ErrTooSoon = errors.New("the newest key is not ten minutes old: a transaction may still be under way that sealed with the one before")

// Prune removes the keys before the newest from the file, once it has opened every value of the columns and found that none
// needs them. It returns their versions, none where there is nothing to remove. Older backups of the database cannot be
// opened without them.
func Prune(ctx context.Context, d *db.DB, k *Keyring, columns []Column) ([]uint32, error) {
	file, ok := k.source.(*File)
	if !ok {
		return nil, errors.New("prune keys: they do not come from a file: remove them where they come from, once chomd secrets check shows that nothing needs them")
	}
	keys := k.Keys()
	newest := newestOf(keys)
	var old []uint32
	for _, key := range keys {
		if key.Version < newest.Version {
			old = append(old, key.Version)
		}
	}
	if len(old) == 0 {
		return nil, nil
	}
	if time.Since(newest.Made) < pruneAfter {
		return nil, fmt.Errorf("prune keys: %w", ErrTooSoon)
	}
	checked, err := Check(ctx, d, k, columns)
	if err != nil {
		return nil, fmt.Errorf("prune keys: %w", err)
	}
	if len(checked.Unreadable) > 0 {
		return nil, fmt.Errorf("prune keys: %w", checked.Unreadable[0])
	}
	for version, values := range checked.Values {
		if version < newest.Version {
			return nil, fmt.Errorf("prune keys: %d values need version %d: rotate first", values, version)
		}
	}
	// The database forgets first: a mark without its key would keep chomd from starting.
	err = db.InTx(ctx, d, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM secret_keys WHERE version < $1`, newest.Version); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Organization: audit.Platform, Action: "secrets.prune", Object: strconv.Itoa(int(newest.Version)), Detail: fmt.Sprintf("removed the key versions %v", old),
		})
	})
	if err == nil {
		err = file.drop(ctx, newest.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("prune keys: %w", err)
	}
	return old, nil
}
