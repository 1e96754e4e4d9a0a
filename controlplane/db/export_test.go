package db

import "context"

// MigrateTo brings the schema to a version, as a former release would have.
func MigrateTo(ctx context.Context, d *DB, version int64) error {
	m, err := d.engine.migrator(ctx)
	if err != nil {
		return err
	}
	defer m.close()
	_, err = m.goose.UpTo(ctx, version)
	return err
}
