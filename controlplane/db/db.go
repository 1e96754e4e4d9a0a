// Package db is the store of the control plane: one schema and one text of
// every query for two engines, SQLite in one file and PostgreSQL.
//
// It gives out connections, transactions, migrations and wake-ups. It knows no
// nouns: every query stands next to the function that runs it, in the package
// whose rows it reads.
//
// The common subset of SQL: $1 placeholders, TEXT, BIGINT, BOOLEAN, BYTEA and
// DOUBLE PRECISION columns, INSERT ... ON CONFLICT, RETURNING, UPDATE ... FROM.
// Times are BIGINT microseconds (Micros, Time). Rows must be closed before the
// next statement of the same transaction runs.
//
// Transactions are serial on SQLite (one writer at a time) and SERIALIZABLE on
// PostgreSQL, where InTx repeats those that lost. A function given to InTx may
// thus run several times and must have no effect but its statements and what
// it leaves to Tx.AfterCommit.
package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"chom.dev/controlplane/fault"
)

// DB is an open database of either engine. It is safe for concurrent use.
type DB struct {
	engine   engine
	wakes    *wakes
	turns    turns
	closed   atomic.Bool
	sealKey  atomic.Pointer[[]byte]
	orderKey atomic.Pointer[[]byte]
}

// engine is what differs between SQLite and PostgreSQL.
type engine interface {
	name() string
	reader() Querier
	write(ctx context.Context, o txOptions, fn func(*Tx) error) error
	migrator(ctx context.Context) (migrator, error)
	// snapshot gives a Querier to whom time stands still.
	snapshot(ctx context.Context, fn func(Querier) error) error
	// tables gives the schema's own, each after those that it refers to.
	tables(ctx context.Context, q Querier) ([]string, error)
	ping(ctx context.Context) error
	close() error
}

// Querier runs statements: a Tx, or the pool of readers.
type Querier interface {
	// Query gives the rows of a SELECT, or of a statement with RETURNING.
	Query(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	// QueryRow gives the only row; Scan says sql.ErrNoRows when there is none.
	QueryRow(ctx context.Context, query string, args ...any) *sql.Row
}

// Option changes how a database is opened.
type Option func(*options)

type options struct {
	log   *slog.Logger
	conns int
}

// WithLogger says where lost connections are reported; without it nowhere.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// WithMaxConns limits the connections to PostgreSQL, or the readers of SQLite.
// Without it 20 and 4.
func WithMaxConns(n int) Option { return func(o *options) { o.conns = n } }

// Open opens "sqlite:PATH" or "postgres://...". It does not migrate. The file
// of SQLite is created when missing, readable by its owner only; only one
// process may serve from it, since its wake-ups stay inside. Close it at the end.
func Open(ctx context.Context, url string, opts ...Option) (*DB, error) {
	o := options{log: slog.New(slog.DiscardHandler)}
	for _, opt := range opts {
		opt(&o)
	}
	var e engine
	var err error
	d := &DB{}
	switch {
	case strings.HasPrefix(url, "sqlite:"):
		d.wakes = newWakes(nil, o.log)
		e, err = openSQLite(ctx, strings.TrimPrefix(url, "sqlite:"), o, d.wakes)
	case strings.HasPrefix(url, "postgres://"), strings.HasPrefix(url, "postgresql://"):
		var p *postgres
		if p, err = openPostgres(ctx, url, o); err == nil {
			d.wakes = newWakes(p.config, o.log)
			p.wakes = d.wakes
			e = p
		}
	default:
		return nil, errors.New("open database: the URL must begin with sqlite: or postgres://")
	}
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	d.engine = e
	return d, nil
}

// Close ends all connections and the loops behind Listen. Closing twice is
// harmless.
func (d *DB) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	d.wakes.close()
	return d.engine.close()
}

// Engine is "sqlite" or "postgres", for logs and the few tests that differ.
func (d *DB) Engine() string { return d.engine.name() }

// Ping asks the database for an answer.
func (d *DB) Ping(ctx context.Context) error {
	if err := d.engine.ping(ctx); err != nil {
		return unavailable(err)
	}
	return nil
}

// Reader gives the pool of readers: each statement sees what was committed
// when it began. Never write through it; SQLite refuses it.
func (d *DB) Reader() Querier { return d.engine.reader() }

// Micros is a time as it is stored: microseconds since 1970. The zero time is 0.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Time is the reverse of Micros, in UTC.
func Time(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// NullMicros is a time in a column that may be NULL: NULL for the zero time.
func NullMicros(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: Micros(t), Valid: !t.IsZero()}
}

// NullTime is the reverse of NullMicros: the zero time for NULL.
func NullTime(us sql.NullInt64) time.Time {
	if !us.Valid {
		return time.Time{}
	}
	return Time(us.Int64)
}

// Placeholders gives "$from, ..., $from+n-1" for an IN list.
func Placeholders(from, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "$%d", from+i)
	}
	return b.String()
}

// errClosed is what a database says after Close.
var errClosed = errors.New("the database is closed")

// unavailable turns the loss of the database into a fault that callers may
// retry; other errors pass.
func unavailable(err error) error {
	if err == nil || !lost(err) {
		return err
	}
	if _, ok := fault.Of(err); ok {
		return err
	}
	return fault.Unavailable("the database does not answer", time.Second, err)
}
