package mariadb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"chom.dev/agent/fail"
	"chom.dev/proto/contract"
)

// A restore moves tables between three schemas of a site, all of them in one
// statement, which the server does as a whole or not at all (MariaDB 10.6 and
// newer, also when it dies meanwhile):
//
//	            scratch        live          undo
//	staged      new, mark      old           -
//	restored    -              new           old, mark
//
// The mark is an empty table that moves along: where it is tells what the site
// has, also when it has no tables. Views, triggers and routines don't move: the
// schemas other than live have none.

// ErrNoMark says that no restore was prepared, or that it was forgotten.
var ErrNoMark = errors.New("the database holds no mark of this restore")

// Mark names the table that moves along. It must be nobody's to guess before.
func mark(restore contract.RestoreID) string { return "chom-restore-" + restore.String() }

// Prepare makes the mark in the scratch schema, and an empty one for what will be
// replaced. Nothing of the site is touched.
func (s *Server) Prepare(ctx context.Context, h contract.Handle, restore contract.RestoreID) error {
	undo := identifier(h.UndoDB().String())
	for _, query := range []string{
		"DROP DATABASE IF EXISTS " + undo,
		"CREATE DATABASE " + undo + " CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
		"CREATE TABLE IF NOT EXISTS " + identifier(h.ScratchDB().String()) + "." + identifier(mark(restore)) + " (x INT) ENGINE=InnoDB",
	} {
		if _, err := s.slow.ExecContext(ctx, query); err != nil {
			return fmt.Errorf("prepare restore of %s: %w", h, err)
		}
		fail.Point("mariadb.switch-prepared")
	}
	return nil
}

// Restored tells whether the site has the tables that were restored, or those
// that are to be, or were, replaced.
func (s *Server) Restored(ctx context.Context, h contract.Handle, restore contract.RestoreID) (bool, error) {
	conn, err := s.slow.Conn(ctx)
	if err != nil {
		return false, fmt.Errorf("look for tables of %s: %w", h, err)
	}
	defer func() { _ = conn.Close() }() // back to the pool
	return restored(ctx, conn, h, restore)
}

func restored(ctx context.Context, conn *sql.Conn, h contract.Handle, restore contract.RestoreID) (bool, error) {
	where, err := texts(ctx, conn, "SELECT table_schema FROM information_schema.tables WHERE table_name = ? AND table_schema IN (?, ?)",
		mark(restore), h.ScratchDB().String(), h.UndoDB().String())
	switch {
	case err != nil:
		return false, fmt.Errorf("look for tables of %s: %w", h, err)
	case len(where) != 1:
		return false, fmt.Errorf("look for tables of %s: %w", h, ErrNoMark)
	}
	return where[0] == h.UndoDB().String(), nil
}

// lockWait bounds how long a table may be held by somebody else: nobody of the
// site is left to do so.
const lockWait = "30"

// Switch gives the site the tables that were restored, or those that were
// replaced, and keeps what it has; of only some tables, where those are named.
// The site's views, triggers and routines are dropped; Define makes those that
// belong to the tables. What is so already stays.
func (s *Server) Switch(ctx context.Context, h contract.Handle, restore contract.RestoreID, only []string, toRestored bool) error {
	conn, err := s.slow.Conn(ctx)
	if err != nil {
		return fmt.Errorf("switch tables of %s: %w", h, err)
	}
	defer func() { _ = conn.Close() }() // back to the pool
	if is, err := restored(ctx, conn, h, restore); err != nil || is == toRestored {
		return err
	}
	live, from, to := h.DBName(), h.ScratchDB(), h.UndoDB()
	if !toRestored {
		from, to = to, from
	}
	if err := kill(ctx, conn, h.UnixUser()); err != nil { // a connection may outlive its process
		return fmt.Errorf("switch tables of %s: %w", h, err)
	}
	for _, query := range []string{
		"SET SESSION lock_wait_timeout = " + lockWait,
		"CREATE DATABASE IF NOT EXISTS " + identifier(to.String()) + " CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
	} {
		if _, err := conn.ExecContext(ctx, query); err != nil {
			return fmt.Errorf("switch tables of %s: %w", h, err)
		}
	}
	if err := dropObjects(ctx, conn, live); err != nil {
		return fmt.Errorf("switch tables of %s: %w", h, err)
	}
	away, err := tables(ctx, conn, live)
	if err != nil {
		return fmt.Errorf("switch tables of %s: %w", h, err)
	}
	in, err := tables(ctx, conn, from)
	if err != nil {
		return fmt.Errorf("switch tables of %s: %w", h, err)
	}
	others := func(name string) bool { return name == mark(restore) || len(only) > 0 && !slices.Contains(only, name) }
	away, in = slices.DeleteFunc(away, others), slices.DeleteFunc(in, others)
	fail.Point("mariadb.before-switch")
	if _, err := conn.ExecContext(ctx, rename(
		move{away, live, to}, move{in, from, live}, move{[]string{mark(restore)}, from, to})); err != nil {
		return fmt.Errorf("switch tables of %s: %w", h, err)
	}
	fail.Point("mariadb.switched")
	return nil
}

// Torn names a foreign key that some tables have to others, or others to them, in
// the site's schema or in the scratch schema; empty when there is none. The server
// would have it follow the tables into another schema.
func (s *Server) Torn(ctx context.Context, h contract.Handle, some []string) (string, error) {
	conn, err := s.slow.Conn(ctx)
	if err != nil {
		return "", fmt.Errorf("look for foreign keys of %s: %w", h, err)
	}
	defer func() { _ = conn.Close() }() // back to the pool
	rows, err := conn.QueryContext(ctx, "SELECT table_name, referenced_table_name FROM information_schema.referential_constraints WHERE constraint_schema IN (?, ?)",
		h.DBName().String(), h.ScratchDB().String())
	if err != nil {
		return "", fmt.Errorf("look for foreign keys of %s: %w", h, err)
	}
	defer rows.Close() // its error is rows.Err
	for rows.Next() {
		var of, to string
		if err := rows.Scan(&of, &to); err != nil {
			return "", fmt.Errorf("look for foreign keys of %s: %w", h, err)
		}
		if slices.Contains(some, of) != slices.Contains(some, to) {
			return fmt.Sprintf("table %q refers to table %q by a foreign key", of, to), nil
		}
	}
	return "", rows.Err()
}

// tables are those that RENAME TABLE moves.
func tables(ctx context.Context, conn *sql.Conn, schema contract.DBName) ([]string, error) {
	return texts(ctx, conn, "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED', 'SEQUENCE') ORDER BY table_name", schema.String())
}

type move struct {
	names    []string
	from, to contract.DBName
}

// rename is the one statement.
func rename(moves ...move) string {
	var parts []string
	for _, m := range moves {
		for _, name := range m.names {
			parts = append(parts, fmt.Sprintf("%s.%s TO %s.%s", identifier(m.from.String()), identifier(name), identifier(m.to.String()), identifier(name)))
		}
	}
	return "RENAME TABLE " + strings.Join(parts, ", ")
}
