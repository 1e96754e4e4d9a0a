// Package mariadb gives each site a schema and an account on the host's
// MariaDB, and takes them away. The account is authenticated by unix_socket:
// the kernel vouches for the site's user, so no database password exists that
// could leak. The agent itself comes in the same way, as root.
//
// Names come from contract types only and hold no wildcard. An account has
// rights on its own schema and nowhere else; it is nobody's administrator.
package mariadb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"chom.dev/agent/fail"
	"chom.dev/proto/contract"
)

// Socket is where the distribution's server listens.
const Socket = "/run/mysqld/mysqld.sock"

// connectionsPerSite bounds what one site can take of the server's
// connections: its workers, its cron and a shell.
const connectionsPerSite = 30

// rights are what an application needs in its own schema. Not among them: FILE,
// SUPER, PROCESS, EVENT (would run while the site is suspended) and GRANT.
var rights = []string{
	"SELECT", "INSERT", "UPDATE", "DELETE",
	"CREATE", "ALTER", "DROP", "INDEX", "REFERENCES",
	"CREATE TEMPORARY TABLES", "LOCK TABLES",
	"CREATE VIEW", "SHOW VIEW", "TRIGGER",
	"CREATE ROUTINE", "ALTER ROUTINE", "EXECUTE",
}

// Server is the host's MariaDB. It connects when first used. Safe for
// concurrent use.
type Server struct {
	db     *sql.DB
	slow   *sql.DB // for what reads or moves whole schemas
	socket string
}

// New gives the server behind a socket, Socket on a host, without talking to it
// yet.
func New(socket string) (*Server, error) {
	// Dropping a large schema takes its time.
	db, err := open(socket, "root", time.Minute)
	if err != nil {
		return nil, err
	}
	// To count the rows of a table of many gigabytes takes longer.
	slow, err := open(socket, "root", 30*time.Minute)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(4)   // as many as sites converge at once
	slow.SetMaxOpenConns(2) // as many as the disk bears
	return &Server{db: db, slow: slow, socket: socket}, nil
}

// open gives connections as a user that the kernel vouches for.
func open(socket, user string, patience time.Duration) (*sql.DB, error) {
	cfg := mysql.NewConfig()
	cfg.User = user
	cfg.Net = "unix"
	cfg.Addr = socket
	cfg.Logger = &mysql.NopLogger{} // what it would say comes back as an error as well
	cfg.Timeout = 5 * time.Second   // a local socket answers at once or is full
	cfg.ReadTimeout = patience
	cfg.WriteTimeout = time.Minute
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("open mariadb: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetConnMaxIdleTime(30 * time.Second) // an idle agent holds nothing
	return db, nil
}

// Close ends all connections.
func (s *Server) Close() error { return errors.Join(s.db.Close(), s.slow.Close()) }

// Version asks the server for its release, e.g. "10.11.19". An answer means
// that it runs and lets us in.
func (s *Server) Version(ctx context.Context) (string, error) {
	var v string
	if err := s.db.QueryRowContext(ctx, "SELECT VERSION()").Scan(&v); err != nil {
		return "", fmt.Errorf("version of mariadb: %w", err)
	}
	v, _, _ = strings.Cut(v, "-")
	return v, nil
}

// Ensure makes the site's schema, account and rights be exactly as they should:
// what is missing is made, what is too much is taken away. The schema's content
// is never touched.
func (s *Server) Ensure(ctx context.Context, schema contract.DBName, user contract.UnixUser) error {
	if schema.IsZero() || user.IsZero() {
		return errors.New("ensure database: no name")
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("ensure database %s: %w", schema, err)
	}
	defer func() { _ = conn.Close() }() // back to the pool
	who := account(user)
	for _, step := range []struct{ point, query string }{
		{"mariadb.schema-made", "CREATE DATABASE IF NOT EXISTS " + identifier(schema.String()) +
			" CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"},
		{"mariadb.account-made", "CREATE USER IF NOT EXISTS " + who + " IDENTIFIED VIA unix_socket"},
		{"mariadb.account-set", fmt.Sprintf("ALTER USER %s IDENTIFIED VIA unix_socket WITH MAX_USER_CONNECTIONS %d", who, connectionsPerSite)},
		{"mariadb.granted", "GRANT " + strings.Join(rights, ", ") + " ON " + pattern(schema.String()) + ".* TO " + who},
	} {
		if _, err := conn.ExecContext(ctx, step.query); err != nil {
			return fmt.Errorf("ensure database %s: %w", schema, err)
		}
		fail.Point(step.point)
	}
	state, err := probe(ctx, conn, schema, user)
	if err != nil {
		return fmt.Errorf("ensure database %s: %w", schema, err)
	}
	if len(state.Foreign) > 0 {
		// Someone gave this account more than its schema. Start over from
		// nothing; the site's rights come back in the same breath.
		for _, query := range []string{
			"REVOKE ALL PRIVILEGES, GRANT OPTION FROM " + who,
			"GRANT " + strings.Join(rights, ", ") + " ON " + pattern(schema.String()) + ".* TO " + who,
		} {
			if _, err := conn.ExecContext(ctx, query); err != nil {
				return fmt.Errorf("take foreign rights from %s: %w", user, err)
			}
		}
		if state, err = probe(ctx, conn, schema, user); err != nil {
			return fmt.Errorf("ensure database %s: %w", schema, err)
		}
	}
	if !state.Complete() {
		return fmt.Errorf("ensure database %s: the server took every order and is still %+v", schema, state)
	}
	return nil
}

// Remove drops the site's account, with its rights and connections, and its
// schema. What isn't there is fine.
func (s *Server) Remove(ctx context.Context, schema contract.DBName, user contract.UnixUser) error {
	if schema.IsZero() || user.IsZero() {
		return errors.New("remove database: no name")
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("remove database %s: %w", schema, err)
	}
	defer func() { _ = conn.Close() }() // back to the pool
	if err := kill(ctx, conn, user); err != nil {
		return fmt.Errorf("remove database %s: %w", schema, err)
	}
	for _, step := range []struct{ point, query string }{
		{"mariadb.account-dropped", "DROP USER IF EXISTS " + account(user)},
		{"mariadb.schema-dropped", "DROP DATABASE IF EXISTS " + identifier(schema.String())},
	} {
		if _, err := conn.ExecContext(ctx, step.query); err != nil {
			return fmt.Errorf("remove database %s: %w", schema, err)
		}
		fail.Point(step.point)
	}
	return s.Forget(ctx, user.Handle())
}

// kill ends the account's connections: one that holds a lock would keep its
// schema from being dropped.
func kill(ctx context.Context, conn *sql.Conn, u contract.UnixUser) error {
	var there bool
	if err := conn.QueryRowContext(ctx, "SELECT COUNT(*) > 0 FROM mysql.global_priv WHERE User = ? AND Host = 'localhost'", u.String()).Scan(&there); err != nil {
		return err
	}
	if !there {
		return nil
	}
	_, err := conn.ExecContext(ctx, "KILL HARD USER "+account(u))
	return err
}

// State is what of a site's database is there.
type State struct {
	Schema  bool
	Account bool     // authenticated by unix_socket and nothing else
	Rights  bool     // all that an application needs, on its own schema
	Foreign []string // rights that it should not have, as the server words them
}

// Complete reports whether everything is as it should be.
func (s State) Complete() bool { return s.Schema && s.Account && s.Rights && len(s.Foreign) == 0 }

// Absent reports whether nothing is there.
func (s State) Absent() bool { return !s.Schema && !s.Account && !s.Rights }

// Probe asks the server what is there.
func (s *Server) Probe(ctx context.Context, schema contract.DBName, user contract.UnixUser) (State, error) {
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return State{}, fmt.Errorf("probe database %s: %w", schema, err)
	}
	defer func() { _ = conn.Close() }() // back to the pool
	state, err := probe(ctx, conn, schema, user)
	if err != nil {
		return State{}, fmt.Errorf("probe database %s: %w", schema, err)
	}
	return state, nil
}

const (
	noSuchGrant   = 1141 // ER_NONEXISTING_GRANT
	noSuchAccount = 1133 // ER_PASSWORD_NO_MATCH
)

func probe(ctx context.Context, conn *sql.Conn, schema contract.DBName, user contract.UnixUser) (State, error) {
	var state State
	if err := conn.QueryRowContext(ctx,
		"SELECT COUNT(*) > 0 FROM information_schema.schemata WHERE schema_name = ?", schema.String(),
	).Scan(&state.Schema); err != nil {
		return State{}, err
	}
	grants, err := grantsOf(ctx, conn, user)
	var refused *mysql.MySQLError
	if errors.As(err, &refused) && (refused.Number == noSuchGrant || refused.Number == noSuchAccount) {
		return state, nil
	}
	for _, g := range grants {
		state.read(g, schema, user)
	}
	return state, err
}

func grantsOf(ctx context.Context, conn *sql.Conn, u contract.UnixUser) ([]string, error) {
	return texts(ctx, conn, "SHOW GRANTS FOR "+account(u))
}

// read sorts one line of SHOW GRANTS into what should be there and what not.
func (s *State) read(grant string, schema contract.DBName, user contract.UnixUser) {
	to := " TO " + account(user)
	what, found := strings.CutPrefix(grant, "GRANT USAGE ON *.*"+to)
	if found {
		if strings.HasPrefix(what, " IDENTIFIED VIA unix_socket") && !strings.Contains(what, " OR ") && !strings.Contains(what, "GRANT OPTION") {
			s.Account = true
			return
		}
		s.Foreign = append(s.Foreign, grant)
		return
	}
	what, found = strings.CutSuffix(grant, " ON "+pattern(schema.String())+".*"+to)
	if !found {
		s.Foreign = append(s.Foreign, grant)
		return
	}
	have := strings.Split(strings.TrimPrefix(what, "GRANT "), ", ")
	for _, r := range have {
		if !slices.Contains(rights, r) {
			s.Foreign = append(s.Foreign, grant)
			return
		}
	}
	s.Rights = len(have) == len(rights)
}

// identifier quotes a name. Typed names need no quoting; this is the wall
// behind the type.
func identifier(s string) string { return "`" + strings.ReplaceAll(s, "`", "``") + "`" }

// pattern quotes a schema's name for GRANT, where "_" and "%" are wildcards.
func pattern(s string) string {
	return identifier(strings.NewReplacer(`\`, `\\`, "_", `\_`, "%", `\%`).Replace(s))
}

func account(u contract.UnixUser) string { return identifier(u.String()) + "@`localhost`" }
