package db

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"chom.dev/controlplane/fault"
)

// ErrCommitUnknown says that the connection died while a commit was under way:
// the transaction may have happened or not. Whoever retries must first look.
var ErrCommitUnknown = errors.New("whether the transaction was committed is not known")

// Tx is a write transaction.
type Tx struct {
	q         runner
	forUpdate string
	races     bool // it is lost when a row that it changes was changed since it began
	ends      []end
	after     []func()
	wakes     []wake
	sealKey   []byte
	orderKey  []byte
}

// runner is the connection under a Tx.
type runner interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Exec runs a statement and says how many rows it changed.
func (tx *Tx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	r, err := tx.q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// Query gives the rows of a statement. Close them before the next statement.
func (tx *Tx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return tx.q.QueryContext(ctx, query, args...)
}

// QueryRow gives the only row of a statement.
func (tx *Tx) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return tx.q.QueryRowContext(ctx, query, args...)
}

// ForUpdate ends the text of a SELECT whose rows nobody else may change until
// the transaction ends. On SQLite it is empty: nobody else writes meanwhile.
func (tx *Tx) ForUpdate() string { return tx.forUpdate }

// AfterCommit runs fn once the transaction is committed, and never if it is
// not. It runs in the goroutine of InTx: it must be short and must not fail.
func (tx *Tx) AfterCommit(fn func()) { tx.after = append(tx.after, fn) }

// Notify wakes those who Listen, in all processes, once the transaction is
// committed. See DB.Listen for what a wake-up is worth.
func (tx *Tx) Notify(topic, payload string) {
	w := wake{topic, payload}
	for _, have := range tx.wakes {
		if have == w {
			return
		}
	}
	tx.wakes = append(tx.wakes, w)
}

// TxOption changes how a transaction runs.
type TxOption func(*txOptions)

type txOptions struct{ readCommitted bool }

// ReadCommitted lowers the isolation on PostgreSQL for hot paths that take a
// row lock (by Tx.ForUpdate or an UPDATE ... RETURNING) before they decide
// anything from that row, and decide nothing from rows that they did not lock.
func ReadCommitted() TxOption { return func(o *txOptions) { o.readCommitted = true } }

// txTimeout ends a transaction that hangs, whatever its caller's deadline: an
// open one holds locks and, on SQLite, every other writer.
const txTimeout = 30 * time.Second

// InTx runs fn in a write transaction and commits it when fn returns nil. On
// PostgreSQL it runs fn again when the transaction lost against another one.
// A commit of unknown outcome is ErrCommitUnknown and is never repeated here;
// a database that can't be reached is a fault.Unavailable.
func InTx(ctx context.Context, d *DB, fn func(tx *Tx) error, opts ...TxOption) error {
	var o txOptions
	for _, opt := range opts {
		opt(&o)
	}
	var done *Tx
	first := firstOf(ctx)
	turn := d.turns.newTurn()
	defer turn.leave()
	run := func(tx *Tx) error {
		done = tx
		if key := d.sealKey.Load(); key != nil {
			tx.sealKey = *key
		}
		if key := d.orderKey.Load(); key != nil {
			tx.orderKey = *key
		}
		if err := first.begin(ctx, tx); err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return err
		}
		return tx.end(turn)
	}
	// Ten losses in a row mean more than bad luck; half a second has passed.
	const tries = 10
	for try := 1; ; try++ {
		if d.closed.Load() {
			return unavailable(errClosed)
		}
		err := d.engine.write(ctx, o, run)
		if err == nil {
			break
		}
		if errors.Is(err, errNotItsTurn) && try < tries {
			if err := turn.wait(ctx); err != nil {
				return err
			}
			continue
		}
		if !retryable(err) || try == tries || ctx.Err() != nil {
			switch {
			case retryable(err):
				return fault.Unavailable("too many changes at once", time.Second, err)
			case ctx.Err() == nil && timedOut(err):
				return fault.Unavailable("the database does not answer in time", time.Second, err)
			}
			return unavailable(err)
		}
		pause := time.NewTimer(rand.N(time.Millisecond << min(try, 6)))
		select {
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-pause.C:
		}
	}
	turn.leave()
	first.committed()
	d.wakes.send(done.wakes)
	for _, f := range done.after {
		f()
	}
	return nil
}

// retryable says whether a transaction lost against another one and was
// certainly not committed.
func retryable(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "40001" || pg.Code == "40P01" // serialization failure, deadlock
	}
	return errors.Is(err, errNotItsTurn)
}

// timedOut says whether err means that our own limits ended a transaction.
func timedOut(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "57014" { // statement_timeout
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, sql.ErrTxDone)
}

// lost says whether err means that the database could not be reached.
func lost(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		// Class 08 connection, 53 resources, 57 operator intervention (without 57014, a canceled query).
		return strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "53") ||
			strings.HasPrefix(pg.Code, "57") && pg.Code != "57014"
	}
	var connect *pgconn.ConnectError
	var network *net.OpError
	if errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) {
		return true
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		switch lite.Code() & 0xff {
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
			return true
		}
	}
	return errors.Is(err, errClosed) || errors.Is(err, ErrCommitUnknown)
}

// IsUnique says whether err is a broken UNIQUE or PRIMARY KEY constraint. On
// PostgreSQL the transaction is then dead: prefer ON CONFLICT where one goes on.
func IsUnique(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "23505"
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		return lite.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || lite.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
	}
	return false
}

// IsForeignKey says whether err is a broken FOREIGN KEY constraint.
func IsForeignKey(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "23503"
	}
	var lite *sqlite.Error
	return errors.As(err, &lite) && lite.Code() == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY
}

func commitUnknown(err error) error { return fmt.Errorf("%w: %w", ErrCommitUnknown, err) }
