// Package mariadb is the agent's hold on the host's MariaDB: one schema and one
// account per site. The account is named like the site's unix user and
// authenticated by unix_socket, so the kernel vouches for who connects and no
// password exists. It may do anything inside its own schema and nothing
// outside.
//
// It never looks into a schema, and never runs SQL that came from a tenant.
package mariadb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"chom.dev/agent/atomicfile"
	"chom.dev/agent/systemd"
	"chom.dev/proto/contract"
)

const (
	// Socket is where Debian's MariaDB listens.
	Socket = "/run/mysqld/mysqld.sock"
	// Service is Debian's unit of it.
	Service = "mariadb.service"
	// ConfigFile sorts after Debian's own (50-server.cnf).
	ConfigFile = "/etc/mysql/mariadb.conf.d/60-chom.cnf"

	// maxConnections of one site: its PHP workers, its cron and a plugin, with
	// room to spare, and far from the 151 of the whole server.
	maxConnections = 40
	// accountHost is the only place an account can be used from: this host.
	accountHost = "localhost"
)

// config makes what is dangerous on a shared server impossible, and what is
// idle small.
const config = `# Written by chom-agent. Changes belong into a file that sorts after this one.
[mariadbd]
skip-networking
skip-name-resolve
local_infile = 0
symbolic-links = 0
performance_schema = OFF
max_connections = 300
innodb_flush_log_at_trx_commit = 1
character-set-server = utf8mb4
collation-server = utf8mb4_unicode_ci
`

// rights are what an account may do in its own schema: all there is but EVENT,
// since events run in the server, outside of the site's limits. Each is a name
// as SHOW GRANTS prints it.
var rights = []string{
	"SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "REFERENCES", "INDEX", "ALTER",
	"CREATE TEMPORARY TABLES", "LOCK TABLES", "EXECUTE", "CREATE VIEW", "SHOW VIEW",
	"CREATE ROUTINE", "ALTER ROUTINE", "TRIGGER",
}

// Server is the host's MariaDB, reached as root through its socket.
type Server struct {
	db     *sql.DB
	socket string
}

// New does not connect yet.
func New(socket string) (*Server, error) {
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User = "unix", socket, "root"
	c.Timeout, c.ReadTimeout, c.WriteTimeout = 5*time.Second, 60*time.Second, 60*time.Second
	c.MultiStatements, c.AllowAllFiles = false, false
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, fmt.Errorf("mariadb: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(4) // as many as the agent has slots
	db.SetMaxIdleConns(1)
	db.SetConnMaxIdleTime(30 * time.Second) // an idle agent holds no connection
	return &Server{db: db, socket: socket}, nil
}

// Close ends the connections.
func (s *Server) Close() error { return s.db.Close() }

// Version asks the server for its release, e.g. "10.11.19".
func (s *Server) Version(ctx context.Context) (string, error) {
	var v string
	if err := s.db.QueryRowContext(ctx, "SELECT VERSION()").Scan(&v); err != nil {
		return "", fmt.Errorf("mariadb: %w", err)
	}
	v, _, _ = strings.Cut(v, "-")
	return v, nil
}

// EnsureConfigured writes our settings, has the server run with them, and
// keeps it running over reboots.
func EnsureConfigured(ctx context.Context, host *systemd.Host) error {
	changed, err := atomicfile.Write(ConfigFile, []byte(config), 0o644, 0)
	if err != nil {
		return fmt.Errorf("configure mariadb: %w", err)
	}
	if changed {
		err = host.Restart(ctx, Service)
	} else {
		err = host.Start(ctx, Service)
	}
	if err != nil {
		return fmt.Errorf("start mariadb: %w", err)
	}
	return nil
}

// Configured reports whether our settings are in place.
func Configured(ctx context.Context, host *systemd.Host) (bool, error) {
	have, err := os.ReadFile(ConfigFile)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil || string(have) != config {
		return false, err
	}
	st, err := host.State(ctx, Service)
	return st.Active == "active", err
}

// State is what of a site's database is there.
type State struct {
	Schema  bool
	Account bool // authenticated by unix_socket
	Grant   bool // on its own schema, and nothing else
}

// Complete reports whether nothing is left to do.
func (s State) Complete() bool { return s.Schema && s.Account && s.Grant }

// Absent reports whether nothing is there.
func (s State) Absent() bool { return !s.Schema && !s.Account && !s.Grant }

// Probe looks at the schema and the account of a site.
func (s *Server) Probe(ctx context.Context, schema contract.DBName, user contract.UnixUser) (State, error) {
	var st State
	var n int
	err := s.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = ?", schema.String()).Scan(&n)
	if err != nil {
		return State{}, fmt.Errorf("probe schema %s: %w", schema, err)
	}
	st.Schema = n == 1
	grants, err := s.grants(ctx, user)
	if err != nil {
		return State{}, fmt.Errorf("probe account %s: %w", user, err)
	}
	for _, g := range grants {
		switch {
		case strings.HasPrefix(g, "GRANT USAGE ON *.* TO "):
			st.Account = strings.Contains(g, "IDENTIFIED VIA unix_socket")
		case isGrant(g, schema):
			st.Grant = true
		default: // more, or less, than it must have: Ensure mends it
			return State{Schema: st.Schema, Account: st.Account}, nil
		}
	}
	return st, nil
}

// isGrant tells whether a line of SHOW GRANTS gives exactly our rights on the schema.
func isGrant(line string, schema contract.DBName) bool {
	list, found := strings.CutPrefix(line, "GRANT ")
	list, rest, on := strings.Cut(list, " ON ")
	if !found || !on || !strings.HasPrefix(rest, pattern(schema)+".* TO ") || strings.Contains(rest, "GRANT OPTION") {
		return false
	}
	got := strings.Split(list, ", ")
	slices.Sort(got)
	return slices.Equal(got, slices.Sorted(slices.Values(rights)))
}

// unknownAccount is ER_NONEXISTING_GRANT.
const unknownAccount = 1141

// grants lists what an account may do; nothing for an account that is not there.
func (s *Server) grants(ctx context.Context, user contract.UnixUser) ([]string, error) {
	grants, err := s.column(ctx, "SHOW GRANTS FOR "+account(user))
	var my *mysql.MySQLError
	if errors.As(err, &my) && my.Number == unknownAccount {
		return nil, nil
	}
	return grants, err
}

func (s *Server) column(ctx context.Context, query string) (values []string, err error) {
	rows, err := s.db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, rows.Err()
}

// Ensure makes schema and account exist, with exactly the rights they need.
func (s *Server) Ensure(ctx context.Context, schema contract.DBName, user contract.UnixUser) error {
	for _, q := range []string{ // each can be repeated
		"CREATE DATABASE IF NOT EXISTS " + identifier(schema.String()) + " CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
		"CREATE USER IF NOT EXISTS " + account(user) + " IDENTIFIED VIA unix_socket",
		fmt.Sprintf("ALTER USER %s IDENTIFIED VIA unix_socket WITH MAX_USER_CONNECTIONS %d", account(user), maxConnections),
	} {
		if _, err := s.db.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("make database of %s: %w", user, err)
		}
	}
	st, err := s.Probe(ctx, schema, user)
	if err != nil || st.Complete() {
		return err
	}
	for _, q := range []string{
		"REVOKE ALL PRIVILEGES, GRANT OPTION FROM " + account(user),
		"GRANT " + strings.Join(rights, ", ") + " ON " + pattern(schema) + ".* TO " + account(user),
	} {
		if _, err := s.db.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("grant to %s: %w", user, err)
		}
	}
	return nil
}

// Remove drops the schema with all that is in it, and the account.
func (s *Server) Remove(ctx context.Context, schema contract.DBName, user contract.UnixUser) error {
	for _, q := range []string{
		"DROP USER IF EXISTS " + account(user),
		"DROP DATABASE IF EXISTS " + identifier(schema.String()),
	} {
		if _, err := s.db.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("drop database of %s: %w", user, err)
		}
	}
	return nil
}

// account is the SQL name of a site's account.
func account(user contract.UnixUser) string {
	return quote(user.String(), '\'') + "@" + quote(accountHost, '\'')
}

func identifier(name string) string { return quote(name, '`') }

// pattern is a schema's name where GRANT reads a pattern: _ and % would match
// other schemas. Names hold neither; this is the second wall.
func pattern(schema contract.DBName) string {
	return "`" + strings.NewReplacer("_", `\_`, "%", `\%`, "`", "``").Replace(schema.String()) + "`"
}

// quote wraps a name. The names come from types that allow letters, digits and
// hyphens only; doubling the mark is the second wall.
func quote(name string, mark rune) string {
	m := string(mark)
	return m + strings.ReplaceAll(strings.ReplaceAll(name, `\`, ""), m, m+m) + m
}
