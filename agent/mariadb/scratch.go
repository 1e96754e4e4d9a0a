package mariadb

import (
	"context"
	"crypto/rand"
	"crypto/sha1"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"chom.dev/agent/fail"
	"chom.dev/proto/contract"
)

// importRights are what a dump of tables needs in the scratch schema. Views,
// triggers and routines are not made there, so that nothing in it has a definer.
var importRights = []string{
	"SELECT", "INSERT", "UPDATE", "DELETE",
	"CREATE", "ALTER", "DROP", "INDEX", "REFERENCES",
	"CREATE TEMPORARY TABLES", "LOCK TABLES",
}

// Import is a way into a site's scratch schema for a backup's SQL, which is
// untrusted: an account with rights there and nowhere else, that is gone once the
// tables are. Its password is for a client's input alone, never for an argument or
// the environment.
type Import struct {
	Schema contract.DBName
	Socket string

	user     string
	password string
}

// String hides the password.
func (i Import) String() string { return "import into " + i.Schema.String() }

// GoString hides the password.
func (i Import) GoString() string { return i.String() }

// OptionFile is what the programs mariadb and mysql are to read by
// --defaults-file=/dev/fd/N, as their first argument.
func (i Import) OptionFile() []byte {
	return fmt.Appendf(nil, "[client]\nsocket=%s\nuser=%s\npassword=%s\ndefault-character-set=utf8mb4\n[mariadb]\nlocal-infile=0\n", i.Socket, i.user, i.password)
}

// OpenImport empties the scratch schema, and gives the way into it. An older one
// ends: its password is void. End it with CloseImport.
func (s *Server) OpenImport(ctx context.Context, h contract.Handle) (Import, error) {
	if h.IsZero() {
		return Import{}, errors.New("open import: no handle")
	}
	if err := s.CloseImport(ctx, h); err != nil {
		return Import{}, err
	}
	schema := h.ScratchDB()
	in := Import{Schema: schema, Socket: s.socket, user: h.ImportUser().String(), password: rand.Text()}
	who := account(h.ImportUser())
	for _, step := range []struct{ point, query string }{
		{"mariadb.scratch-dropped", "DROP DATABASE IF EXISTS " + identifier(schema.String())},
		{"mariadb.scratch-made", "CREATE DATABASE " + identifier(schema.String()) + " CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"},
		// The server is told the hash alone, since what it is told may be logged.
		{"mariadb.import-made", fmt.Sprintf("CREATE USER %s IDENTIFIED BY PASSWORD '%s' WITH MAX_USER_CONNECTIONS 4", who, nativeHash(in.password))},
		{"mariadb.import-granted", "GRANT " + strings.Join(importRights, ", ") + " ON " + pattern(schema.String()) + ".* TO " + who},
	} {
		if _, err := s.slow.ExecContext(ctx, step.query); err != nil {
			return Import{}, fmt.Errorf("open import into %s: %w", schema, err)
		}
		fail.Point(step.point)
	}
	return in, nil
}

// CloseImport ends the import account and its connections. The schema stays.
func (s *Server) CloseImport(ctx context.Context, h contract.Handle) error {
	conn, err := s.slow.Conn(ctx)
	if err != nil {
		return fmt.Errorf("close import of %s: %w", h, err)
	}
	defer func() { _ = conn.Close() }() // back to the pool
	if err := kill(ctx, conn, h.ImportUser()); err != nil {
		return fmt.Errorf("close import of %s: %w", h, err)
	}
	if _, err := conn.ExecContext(ctx, "DROP USER IF EXISTS "+account(h.ImportUser())); err != nil {
		return fmt.Errorf("close import of %s: %w", h, err)
	}
	// Dropping an account leaves the connections that began before it was killed.
	if _, err := conn.ExecContext(ctx, "KILL HARD USER "+identifier(h.ImportUser().String())); err != nil {
		return fmt.Errorf("close import of %s: %w", h, err)
	}
	fail.Point("mariadb.import-closed")
	return nil
}

// Forget drops what a restore has left: the import account, the scratch schema,
// and the one that holds what was replaced.
func (s *Server) Forget(ctx context.Context, h contract.Handle) error {
	if h.IsZero() {
		return errors.New("forget restore: no handle")
	}
	if err := s.CloseImport(ctx, h); err != nil {
		return err
	}
	for _, schema := range []contract.DBName{h.ScratchDB(), h.UndoDB()} {
		if _, err := s.slow.ExecContext(ctx, "DROP DATABASE IF EXISTS "+identifier(schema.String())); err != nil {
			return fmt.Errorf("drop schema %s: %w", schema, err)
		}
		fail.Point("mariadb.leftover-dropped")
	}
	return nil
}

// Forgotten tells whether nothing of a restore is left.
func (s *Server) Forgotten(ctx context.Context, h contract.Handle) (bool, error) {
	var left int
	err := s.db.QueryRowContext(ctx, `
		SELECT (SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name IN (?, ?))
		     + (SELECT COUNT(*) FROM mysql.global_priv WHERE User = ?)`,
		h.ScratchDB().String(), h.UndoDB().String(), h.ImportUser().String()).Scan(&left)
	if err != nil {
		return false, fmt.Errorf("look for what a restore left of %s: %w", h, err)
	}
	return left == 0, nil
}

// Count gives the tables of a schema and how many rows each has. A sequence is a
// table without rows, as in a dump.
func (s *Server) Count(ctx context.Context, schema contract.DBName) (map[string]uint64, error) {
	conn, err := s.slow.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("count rows of %s: %w", schema, err)
	}
	defer func() { _ = conn.Close() }() // back to the pool
	names, err := texts(ctx, conn, "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')", schema.String())
	if err != nil {
		return nil, fmt.Errorf("count rows of %s: %w", schema, err)
	}
	sequences, err := texts(ctx, conn, "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_type = 'SEQUENCE'", schema.String())
	if err != nil {
		return nil, fmt.Errorf("count rows of %s: %w", schema, err)
	}
	rows := make(map[string]uint64, len(names)+len(sequences))
	for _, name := range sequences {
		rows[name] = 0
	}
	for _, name := range names {
		var n uint64
		if err := conn.QueryRowContext(ctx, "SELECT COUNT(*) FROM "+identifier(schema.String())+"."+identifier(name)).Scan(&n); err != nil {
			return nil, fmt.Errorf("count rows of %s.%q: %w", schema, name, err)
		}
		rows[name] = n
	}
	return rows, nil
}

// Free is how many bytes fit on the file system of the server's data.
func (s *Server) Free(ctx context.Context) (bytes uint64, device uint64, err error) {
	var dir string
	if err := s.db.QueryRowContext(ctx, "SELECT @@datadir").Scan(&dir); err != nil {
		return 0, 0, fmt.Errorf("free space of mariadb: %w", err)
	}
	var fsys unix.Statfs_t
	if err := unix.Statfs(dir, &fsys); err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return fsys.Bavail * uint64(fsys.Bsize), st.Dev, nil
}

// nativeHash is a password as mysql_native_password keeps it.
func nativeHash(password string) string {
	once := sha1.Sum([]byte(password))
	twice := sha1.Sum(once[:])
	return "*" + strings.ToUpper(hex.EncodeToString(twice[:]))
}

// texts reads a column of text.
func texts(ctx context.Context, q interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}, query string, args ...any) ([]string, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close() // its error is rows.Err
	var out []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		out = append(out, name)
	}
	return out, rows.Err()
}
