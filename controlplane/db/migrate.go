package db

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewer says that a later release of CHOM has changed the database. An
// older one must not touch it: it does not know what the rows mean.
var ErrNewer = errors.New("the database is newer than this program: run the newer release, or restore the backup made before the upgrade")

// Migrate brings the schema to the newest version that this program knows. It
// only goes forward and refuses a database that is ahead with ErrNewer.
func Migrate(ctx context.Context, d *DB) error {
	m, err := d.engine.migrator(ctx)
	if err != nil {
		return fmt.Errorf("migrate database: %w", unavailable(err))
	}
	defer m.close()
	if err := m.check(ctx); err != nil {
		return fmt.Errorf("migrate database: %w", unavailable(err))
	}
	if _, err := m.goose.Up(ctx); err != nil {
		return fmt.Errorf("migrate database: %w", unavailable(err))
	}
	return nil
}

// Version gives the version of the schema, and the newest that this program
// knows.
func Version(ctx context.Context, d *DB) (have, newest int64, err error) {
	m, err := d.engine.migrator(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("read schema version: %w", unavailable(err))
	}
	defer m.close()
	have, err = m.goose.GetDBVersion(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("read schema version: %w", unavailable(err))
	}
	return have, m.newest(), nil
}

// migrator is goose on a connection of its own.
type migrator struct {
	goose *goose.Provider
	conn  *sql.DB
}

func newMigrator(dialect goose.Dialect, conn *sql.DB, opts ...goose.ProviderOption) (migrator, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return migrator{}, err
	}
	p, err := goose.NewProvider(dialect, conn, files, append(opts, goose.WithDisableGlobalRegistry(true))...)
	if err != nil {
		return migrator{}, errors.Join(err, conn.Close())
	}
	return migrator{p, conn}, nil
}

func (m migrator) newest() int64 {
	sources := m.goose.ListSources()
	return sources[len(sources)-1].Version
}

func (m migrator) check(ctx context.Context) error {
	have, err := m.goose.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	if have > m.newest() {
		return fmt.Errorf("%w (schema %d, known %d)", ErrNewer, have, m.newest())
	}
	return nil
}

func (m migrator) close() {
	// Nothing is written through it any more.
	_ = m.conn.Close()
}
