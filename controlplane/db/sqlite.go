package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
)

// sqliteDB is one file in WAL mode: one connection that writes, and a pool
// that reads. synchronous=FULL: an acknowledged commit survives a power loss.
//
// Writers that wait for each other share one commit, and so one fsync: each
// runs in a savepoint of the open transaction, and the last of those that wait
// (or the one that makes the batch large or old enough) commits for all.
//
//	BEGIN IMMEDIATE | SAVEPOINT a RELEASE | SAVEPOINT b ROLLBACK TO | ... | COMMIT
//
// Nobody is told that a transaction succeeded before that COMMIT returned.
type sqliteDB struct {
	path    string
	writeDB *sql.DB
	conn    *sql.Conn // of writeDB; guarded by turn
	stmts   *statements
	readDB  *sql.DB
	reads   *statements
	turn    chan struct{} // holds one token: whose turn it is to write
	waiting atomic.Int64  // writers that wait for the turn or have it
	batch   *batch        // the open transaction; guarded by turn
	closed  atomic.Bool
}

// batch is one transaction of the file, shared by writers.
type batch struct {
	began time.Time
	size  int
	err   error // valid once done is closed
	done  chan struct{}
}

const (
	batchMax = 32                    // writers in one commit: a failed commit fails them all
	batchAge = 10 * time.Millisecond // the first of a batch should not wait longer for its answer
	// A reader or a checkpoint may hold the file for a moment.
	busyTimeout = 5 * time.Second
)

func openSQLite(ctx context.Context, path string, o options, _ *wakes) (*sqliteDB, error) {
	if path == "" || path == ":memory:" {
		return nil, errors.New("sqlite: a path is needed")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	// SQLite gives its WAL the mode of the file, so the file comes first.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	s := &sqliteDB{path: path, turn: make(chan struct{}, 1)}
	if s.writeDB, err = sql.Open("sqlite", dsn(path, false)); err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	s.writeDB.SetMaxOpenConns(1)
	if s.conn, err = s.writeDB.Conn(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("sqlite %s: %w", path, err), s.writeDB.Close())
	}
	s.stmts = newStatements(s.conn)
	if s.readDB, err = sql.Open("sqlite", dsn(path, true)); err != nil {
		return nil, errors.Join(fmt.Errorf("sqlite: %w", err), s.writeDB.Close())
	}
	readers := o.conns
	if readers == 0 {
		readers = 4 // reads are short; more only fight for the processor
	}
	s.readDB.SetMaxOpenConns(readers)
	s.readDB.SetMaxIdleConns(readers)
	s.reads = newStatements(s.readDB)
	s.turn <- struct{}{}
	return s, nil
}

func dsn(path string, readOnly bool) string {
	q := url.Values{"_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
		"journal_mode(WAL)",
		"synchronous(FULL)",
		"foreign_keys(1)",
		"trusted_schema(0)",
	}}
	if readOnly {
		q["_pragma"] = append(q["_pragma"], "query_only(1)")
	} else {
		q.Set("_txlock", "immediate")
	}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String()
}

func (s *sqliteDB) name() string { return "sqlite" }

func (s *sqliteDB) reader() Querier { return s.reads }

func (s *sqliteDB) write(ctx context.Context, _ txOptions, fn func(*Tx) error) error {
	s.waiting.Add(1)
	// Whoever waits may have to commit for the others, so nobody leaves the
	// queue early; a turn ends after txTimeout at the latest.
	<-s.turn
	if s.closed.Load() {
		s.waiting.Add(-1)
		s.turn <- struct{}{}
		return errClosed
	}
	b, err := s.takeTurn(ctx, fn)
	if err != nil {
		return err
	}
	<-b.done
	return b.err
}

// takeTurn runs fn, and commits when nobody waits to share the commit.
func (s *sqliteDB) takeTurn(ctx context.Context, fn func(*Tx) error) (*batch, error) {
	defer func() {
		last := s.waiting.Add(-1) == 0
		if b := s.batch; b != nil && (last || b.size >= batchMax || time.Since(b.began) > batchAge) {
			s.commit()
		}
		s.turn <- struct{}{}
	}()
	return s.join(ctx, fn)
}

// join runs fn in a savepoint of the open transaction, which it begins when
// there is none. With an error nothing of fn remains.
func (s *sqliteDB) join(caller context.Context, fn func(*Tx) error) (b *batch, err error) {
	if err := caller.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(caller), txTimeout)
	defer cancel()
	if s.batch == nil {
		if err := s.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
			return nil, err
		}
		s.batch = &batch{began: time.Now(), done: make(chan struct{})}
	}
	if err := s.exec(ctx, "SAVEPOINT member"); err != nil {
		return nil, s.abandon(err)
	}
	finished := false // stays false after a panic and when the goroutine is ended
	defer func() {
		if p := recover(); p != nil {
			b, err = nil, fmt.Errorf("panic in a transaction: %v\n%s", p, debug.Stack())
		}
		if err != nil || !finished {
			undo := s.exec(ctx, "ROLLBACK TO member")
			if undo == nil {
				undo = s.exec(ctx, "RELEASE member")
			}
			if undo != nil {
				// SQLite gave up the whole transaction, as after a full disk.
				err = s.abandon(err)
			}
		}
	}()
	if err := fn(&Tx{q: s.stmts}); err != nil {
		return nil, err
	}
	if err := s.exec(ctx, "RELEASE member"); err != nil {
		return nil, err
	}
	s.batch.size++
	finished = true
	return s.batch, nil
}

// abandon fails everyone in the open transaction.
func (s *sqliteDB) abandon(cause error) error {
	if s.batch != nil {
		// The transaction may be gone already: then there is nothing to roll back.
		_ = s.exec(context.Background(), "ROLLBACK")
		s.batch.err = cause
		close(s.batch.done)
		s.batch = nil
	}
	return cause
}

// commit ends the open transaction and tells everyone in it.
func (s *sqliteDB) commit() {
	ctx, cancel := context.WithTimeout(context.Background(), txTimeout)
	defer cancel()
	if err := s.exec(ctx, "COMMIT"); err != nil {
		// A failed COMMIT leaves the transaction open or undone, except that
		// after an I/O error nobody can say what reached the disk.
		if lost(err) {
			err = commitUnknown(err)
		}
		s.abandon(err) //nolint:errcheck // it returns the cause it was given
		return
	}
	close(s.batch.done)
	s.batch = nil
}

func (s *sqliteDB) exec(ctx context.Context, query string) error {
	_, err := s.stmts.ExecContext(ctx, query)
	return err
}

func (s *sqliteDB) migrator(ctx context.Context) (migrator, error) {
	conn, err := sql.Open("sqlite", dsn(s.path, false))
	if err != nil {
		return migrator{}, err
	}
	conn.SetMaxOpenConns(1)
	return newMigrator(goose.DialectSQLite3, conn)
}

func (s *sqliteDB) snapshot(ctx context.Context, fn func(Querier) error) error {
	// A connection of its own: an export takes long, and readers are few.
	one, err := sql.Open("sqlite", dsn(s.path, true))
	if err != nil {
		return err
	}
	defer one.Close() //nolint:errcheck // nothing was written
	tx, err := one.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	return fn(txQuerier{tx})
}

func (s *sqliteDB) tables(ctx context.Context, q Querier) ([]string, error) {
	return tablesOf(ctx, q, `
		SELECT t.name, COALESCE(f."table", '')
		FROM sqlite_master t
		LEFT JOIN pragma_foreign_key_list(t.name) f ON true
		WHERE t.type = 'table'
		AND t.name NOT LIKE 'sqlite%'
		AND t.name <> 'goose_db_version'`)
}

func (s *sqliteDB) ping(ctx context.Context) error {
	var one int
	return s.reads.QueryRow(ctx, "SELECT 1").Scan(&one)
}

func (s *sqliteDB) close() error {
	<-s.turn
	s.closed.Store(true)
	s.turn <- struct{}{}
	return errors.Join(s.reads.close(), s.readDB.Close(), s.stmts.close(), s.conn.Close(), s.writeDB.Close())
}

// statements runs queries through statements that are prepared once: parsing
// costs SQLite more than running.
type statements struct {
	on interface {
		PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
		runner
	}
	mu   sync.Mutex
	have map[string]*sql.Stmt
}

// statementsMax bounds the cache; the texts of all queries are fewer.
const statementsMax = 512

func newStatements(on interface {
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
	runner
}) *statements {
	return &statements{on: on, have: map[string]*sql.Stmt{}}
}

// get gives the prepared statement, nil when the query must run unprepared.
func (s *statements) get(ctx context.Context, query string) *sql.Stmt {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.have[query]; ok {
		return st
	}
	if len(s.have) >= statementsMax {
		return nil
	}
	st, err := s.on.PrepareContext(context.WithoutCancel(ctx), query) //nolint:sqlclosecheck // close does, for all
	if err != nil {
		return nil // running it says why
	}
	s.have[query] = st
	return st
}

func (s *statements) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if st := s.get(ctx, query); st != nil { //nolint:sqlclosecheck // it stays prepared
		return st.ExecContext(ctx, args...)
	}
	return s.on.ExecContext(ctx, query, args...)
}

func (s *statements) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if st := s.get(ctx, query); st != nil { //nolint:sqlclosecheck // it stays prepared
		return st.QueryContext(ctx, args...)
	}
	return s.on.QueryContext(ctx, query, args...)
}

func (s *statements) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if st := s.get(ctx, query); st != nil { //nolint:sqlclosecheck // it stays prepared
		return st.QueryRowContext(ctx, args...)
	}
	return s.on.QueryRowContext(ctx, query, args...)
}

// Query and QueryRow make the readers' statements a Querier.
func (s *statements) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return s.QueryContext(ctx, query, args...)
}

func (s *statements) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return s.QueryRowContext(ctx, query, args...)
}

func (s *statements) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, st := range s.have {
		errs = append(errs, st.Close())
	}
	s.have = nil
	return errors.Join(errs...)
}
