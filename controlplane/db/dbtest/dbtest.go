// Package dbtest gives every test a fresh, migrated database of each engine:
// a file of SQLite in a directory of its own, and a database cloned from a
// template on a real PostgreSQL server. It never skips: a test that could not
// run on both engines fails.
//
// The server is the one that CHOM_TEST_POSTGRES names (a URL of a role that
// may create databases), else one that dbtest starts from Debian's binaries
// for this process; it ends with the process.
package dbtest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"chom.dev/controlplane/db"
)

// Each runs test on both engines, as subtests "sqlite" and "postgres".
func Each(t *testing.T, test func(t *testing.T, d *db.DB)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, Postgres(t)) })
}

// AtOnce is Each with both at the same time, for a test that waits for most of
// its time. It has to be the last that a test does: both run when that returns.
func AtOnce(t *testing.T, test func(t *testing.T, d *db.DB)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); test(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); test(t, Postgres(t)) })
}

// SQLite opens a fresh, migrated database, removed at the end of the test.
func SQLite(t testing.TB) *db.DB {
	t.Helper()
	return Open(t, SQLiteURL(t))
}

// Postgres opens a fresh, migrated database on the server.
func Postgres(t testing.TB) *db.DB {
	t.Helper()
	return Open(t, PostgresURL(t))
}

// Open opens a database and closes it at the end of the test; all have the same
// key for seals. Two of them on one URL of PostgreSQL stand for two processes.
func Open(t testing.TB, url string) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), url)
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	d.SetSealKey([]byte("the key of all tests"))
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("dbtest: close: %v", err)
		}
	})
	return d
}

// SQLiteURL makes a fresh, migrated file, removed at the end of the test, and
// gives its URL.
func SQLiteURL(t testing.TB) string {
	t.Helper()
	template, err := sqliteTemplate()
	if err != nil {
		t.Fatalf("dbtest: prepare sqlite: %v", err)
	}
	dir, err := os.MkdirTemp(Scratch(), "chom-dbtest-sqlite-")
	if err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("dbtest: %v", err)
		}
	})
	path := filepath.Join(dir, "chom.db")
	if err := os.WriteFile(path, template, 0o600); err != nil {
		t.Fatalf("dbtest: %v", err)
	}
	return "sqlite:" + path
}

// sqliteTemplate gives the bytes of a migrated, empty file.
var sqliteTemplate = sync.OnceValues(func() (_ []byte, err error) {
	dir, err := os.MkdirTemp("", "chom-dbtest-sqlite-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "template.db")
	d, err := db.Open(context.Background(), "sqlite:"+path)
	if err != nil {
		return nil, err
	}
	if err := db.Migrate(context.Background(), d); err != nil {
		return nil, err
	}
	// Closing the last connection moves the WAL into the file.
	if err := d.Close(); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// PostgresURL makes a fresh, migrated database, dropped at the end of the
// test, and gives its URL.
func PostgresURL(t testing.TB) string {
	t.Helper()
	s, err := postgresServer()
	if err != nil {
		t.Fatalf("dbtest: a PostgreSQL server is needed (apt-get install postgresql, or CHOM_TEST_POSTGRES): %v", err)
	}
	name := "t" + random()
	// Copying files costs a third of PostgreSQL's other way, which writes each page to the WAL.
	if err := s.exec(t.Context(), "CREATE DATABASE "+name+" TEMPLATE "+s.template+" STRATEGY FILE_COPY"); err != nil {
		t.Fatalf("dbtest: clone the template: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("dbtest: drop: %v", err)
		}
	})
	return s.database(name)
}

// server is a PostgreSQL server with a migrated template.
type server struct {
	url      string
	template string
	admin    *sql.DB // one connection, kept: a template is cloned by one session at a time, and each new one is a process
}

var postgresServer = sync.OnceValues(func() (*server, error) {
	url := os.Getenv("CHOM_TEST_POSTGRES")
	if url == "" {
		var err error
		if url, err = startPostgres(); err != nil {
			return nil, err
		}
	}
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	s := &server{url: url, template: "chomtemplate" + random(), admin: stdlib.OpenDB(*config)}
	s.admin.SetMaxOpenConns(1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.exec(ctx, "CREATE DATABASE "+s.template); err != nil {
		return nil, err
	}
	d, err := db.Open(ctx, s.database(s.template))
	if err != nil {
		return nil, err
	}
	if err := db.Migrate(ctx, d); err != nil {
		return nil, err
	}
	return s, d.Close()
})

func (s *server) exec(ctx context.Context, statement string) error {
	_, err := s.admin.ExecContext(ctx, statement, pgx.QueryExecModeExec)
	return err
}

// database gives the server's URL with another database name.
func (s *server) database(name string) string {
	u, err := url.Parse(s.url)
	if err != nil {
		return fmt.Sprintf("postgres:///%s", name) // pgx parsed it before
	}
	u.Path = "/" + name
	return u.String()
}

func random() string {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return fmt.Sprintf("%x", b)
}
