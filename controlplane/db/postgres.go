package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// postgres is a server that several processes share.
type postgres struct {
	config *pgx.ConnConfig
	pool   *sql.DB
	wakes  *wakes
}

const (
	connectTimeout = 5 * time.Second // a dead server should be noticed within a request
	connLifetime   = 30 * time.Minute
)

func openPostgres(ctx context.Context, url string, o options) (*postgres, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		// pgx leaves the password out of this text.
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	// A server behind a cut cable should be noticed within half a minute, not
	// after the five that pgx allows, above all by the connection that LISTENs.
	config.DialFunc = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
	}}).DialContext
	for name, value := range map[string]string{
		"application_name":                    "chomd",
		"statement_timeout":                   fmt.Sprint(txTimeout.Milliseconds()),
		"idle_in_transaction_session_timeout": fmt.Sprint(txTimeout.Milliseconds()),
	} {
		if _, set := config.RuntimeParams[name]; !set {
			config.RuntimeParams[name] = value
		}
	}
	p := &postgres{config: config, pool: stdlib.OpenDB(*config)}
	conns := o.conns
	if conns == 0 {
		conns = 20 // five replicas fit into a server's default of 100
	}
	p.pool.SetMaxOpenConns(conns)
	p.pool.SetMaxIdleConns(conns)
	p.pool.SetConnMaxLifetime(connLifetime)
	if err := p.pool.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("postgres: %w", err), p.pool.Close())
	}
	return p, nil
}

func (p *postgres) name() string { return "postgres" }

func (p *postgres) reader() Querier { return poolQuerier{p.pool} }

// poolQuerier makes the pool a Querier.
type poolQuerier struct{ pool *sql.DB }

func (q poolQuerier) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return q.pool.QueryContext(ctx, query, args...)
}

func (q poolQuerier) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return q.pool.QueryRowContext(ctx, query, args...)
}

func (p *postgres) write(caller context.Context, o txOptions, fn func(*Tx) error) (err error) {
	if err := caller.Err(); err != nil {
		return err
	}
	level := sql.LevelSerializable
	if o.readCommitted {
		level = sql.LevelReadCommitted
	}
	// A commit that was sent must not be given up because the caller left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(caller), txTimeout)
	defer cancel()
	tx, err := p.pool.BeginTx(ctx, &sql.TxOptions{Isolation: level})
	if err != nil {
		return err
	}
	committing := false // stays false after a panic and when the goroutine is ended
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in a transaction: %v\n%s", r, debug.Stack())
		}
		if !committing {
			// The error of a rollback adds nothing: the server undoes what is not committed.
			_ = tx.Rollback()
		}
	}()
	if err := fn(&Tx{q: tx, forUpdate: " FOR UPDATE", races: !o.readCommitted}); err != nil {
		return err
	}
	committing = true
	if err := tx.Commit(); err != nil {
		var refused *pgconn.PgError
		if errors.As(err, &refused) || errors.Is(err, pgx.ErrTxCommitRollback) || errors.Is(err, sql.ErrTxDone) {
			return fmt.Errorf("commit: %w", err)
		}
		return commitUnknown(err)
	}
	return nil
}

func (p *postgres) migrator(context.Context) (migrator, error) {
	// Replicas that start together must not migrate together.
	one, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return migrator{}, err
	}
	config := p.config.Copy()
	delete(config.RuntimeParams, "statement_timeout") // a migration may take its time
	return newMigrator(goose.DialectPostgres, stdlib.OpenDB(*config), goose.WithSessionLocker(one))
}

func (p *postgres) snapshot(ctx context.Context, fn func(Querier) error) error {
	tx, err := p.pool.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	if _, err := tx.ExecContext(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
		return err
	}
	return fn(txQuerier{tx})
}

func (p *postgres) tables(ctx context.Context, q Querier) ([]string, error) {
	return tablesOf(ctx, q, `
		SELECT t.relname, COALESCE(r.relname, '')
		FROM pg_class t
		LEFT JOIN pg_constraint f ON f.conrelid = t.oid AND f.contype = 'f'
		LEFT JOIN pg_class r ON r.oid = f.confrelid
		WHERE t.relkind = 'r'
		AND t.relnamespace = current_schema()::regnamespace
		AND t.relname <> 'goose_db_version'`)
}

func (p *postgres) ping(ctx context.Context) error { return p.pool.PingContext(ctx) }

func (p *postgres) close() error { return p.pool.Close() }
