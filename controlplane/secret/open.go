package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"chom.dev/controlplane/db"
)

// Errors of Open about keys that are not those of the database.
var (
	ErrNoFile    = errors.New("the database has sealed secrets, but the file with their keys is not there: put it back, or copy it from where chomd runs already")
	ErrOtherKeys = errors.New("these are not the keys of this database: put the right ones back, or copy them from where chomd runs already")
	ErrOldKeys   = errors.New("the database knows a newer key: copy the file from where it was made")
)

// Open gives the keys of a database. At the very first start it makes the file and the first key. It refuses keys that are
// weak, that others can read, or that are not the database's.
func Open(ctx context.Context, d *db.DB, source Source, log *slog.Logger) (*Keyring, error) {
	marks, err := readMarks(ctx, d.Reader())
	if err != nil {
		return nil, fmt.Errorf("open secrets: %w", err)
	}
	k, err := Load(ctx, source, log)
	if file, ok := source.(*File); ok && !file.credential && errors.Is(err, fs.ErrNotExist) {
		if len(marks) > 0 {
			return nil, fmt.Errorf("open secrets: %s: %w", file.path, ErrNoFile)
		}
		if err := file.create(ctx); err != nil {
			return nil, fmt.Errorf("open secrets: make %s: %w", file.path, err)
		}
		k, err = Load(ctx, source, log)
	}
	if err != nil {
		return nil, fmt.Errorf("open secrets: %w", err)
	}
	err = db.InTx(ctx, d, func(tx *db.Tx) error {
		if marks, err = readMarks(ctx, tx); err != nil {
			return err
		}
		if err := compare(k.Keys(), marks); err != nil {
			return err
		}
		return claim(ctx, tx, k.newest())
	})
	if err != nil {
		return nil, fmt.Errorf("open secrets: %w", err)
	}
	return k, nil
}

// readMarks gives what the database knows of its keys, by version.
func readMarks(ctx context.Context, q db.Querier) (map[uint32][]byte, error) {
	rows, err := q.Query(ctx, `
		SELECT version, mark
		FROM secret_keys`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	marks := map[uint32][]byte{}
	for rows.Next() {
		var version uint32
		var mark []byte
		if err := rows.Scan(&version, &mark); err != nil {
			return nil, err
		}
		marks[version] = mark
	}
	return marks, rows.Err()
}

// compare says whether keys are those that the database knows.
func compare(keys []Key, marks map[uint32][]byte) error {
	have := map[uint32]bool{}
	for _, key := range keys {
		have[key.Version] = true
		if mark, known := marks[key.Version]; known && !bytes.Equal(mark, key.mark()) {
			return fmt.Errorf("version %d: %w", key.Version, ErrOtherKeys)
		}
	}
	for version := range marks {
		if !have[version] {
			return fmt.Errorf("version %d: %w", version, ErrOldKeys)
		}
	}
	return nil
}

// claim has the database know a key. Of two that make the same version, one is refused.
func claim(ctx context.Context, tx *db.Tx, key Key) error {
	// The update changes nothing, but makes RETURNING speak of the row that was there.
	var mark []byte
	if err := tx.QueryRow(ctx, `
		INSERT INTO secret_keys (version, mark, created_at)
		VALUES ($1, $2, $3)
		ON CONFLICT (version) DO UPDATE SET version = excluded.version
		RETURNING mark`,
		key.Version, key.mark(), db.Micros(time.Now())).Scan(&mark); err != nil {
		return err
	}
	if !bytes.Equal(mark, key.mark()) {
		return fmt.Errorf("version %d: %w", key.Version, ErrOtherKeys)
	}
	return nil
}

// followEvery is how soon a process notices that another one has made a key elsewhere.
const followEvery = time.Minute

// Run follows the database, so that a key which is made elsewhere is read before its values are needed, and says in the log
// when it cannot be.
func (k *Keyring) Run(ctx context.Context, d *db.DB) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			k.compare(ctx, d)
		}
	}
}

// compare says in the log when the keys are not those of the database.
func (k *Keyring) compare(ctx context.Context, d *db.DB) {
	marks, err := readMarks(ctx, d.Reader())
	if err != nil {
		k.log.Warn("the keys of secrets cannot be compared with the database", "err", err)
		return
	}
	for version := range marks {
		k.find(version) // reads the source again where it is missing
	}
	if err := compare(k.Keys(), marks); err != nil {
		k.log.Error("the keys of secrets are not those of the database", "err", err)
	}
}
