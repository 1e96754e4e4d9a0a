package mariadb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chom.dev/agent/fail"
	"chom.dev/proto/contract"
)

// Object is a view, trigger or routine. The server can't move it to another
// schema: it is dropped, and made again from its definition.
type Object struct {
	Kind      string // VIEW, TRIGGER, PROCEDURE, FUNCTION, PACKAGE or PACKAGE BODY
	Name      string
	Mode      string // sql_mode that its definition is read with
	Collation string // of the connection that made it
	Create    string // the whole statement
}

// Objects reads the definitions of a schema's views, triggers and routines, in
// an order in which most can be made again.
func (s *Server) Objects(ctx context.Context, schema contract.DBName) ([]Object, error) {
	conn, err := s.slow.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("read objects of %s: %w", schema, err)
	}
	defer func() { _ = conn.Close() }() // back to the pool
	// The server leaves the names of the current schema out of what it shows.
	if _, err := conn.ExecContext(ctx, "USE "+identifier(schema.String())); err != nil {
		return nil, fmt.Errorf("read objects of %s: %w", schema, err)
	}
	defer func() { _, _ = conn.ExecContext(context.WithoutCancel(ctx), "USE mysql") }() // the pool's next user names schemas
	all, err := named(ctx, conn, schema)
	if err != nil {
		return nil, fmt.Errorf("read objects of %s: %w", schema, err)
	}
	for i := range all {
		if err := all[i].define(ctx, conn); err != nil {
			return nil, fmt.Errorf("read %s %q of %s: %w", strings.ToLower(all[i].Kind), all[i].Name, schema, err)
		}
	}
	return all, nil
}

// named lists objects without their definitions.
func named(ctx context.Context, conn *sql.Conn, schema contract.DBName) ([]Object, error) {
	var all []Object
	for _, q := range []struct{ kind, query string }{
		{"", "SELECT CONCAT(routine_type, '|', routine_name) FROM information_schema.routines WHERE routine_schema = ? ORDER BY routine_type, routine_name"},
		{"VIEW", "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_type = 'VIEW' ORDER BY table_name"},
		{"TRIGGER", "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = ? ORDER BY event_object_table, action_timing, event_manipulation, action_order"},
	} {
		names, err := texts(ctx, conn, q.query, schema.String())
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			o := Object{Kind: q.kind, Name: name}
			if o.Kind == "" {
				o.Kind, o.Name, _ = strings.Cut(name, "|")
			}
			all = append(all, o)
		}
	}
	return all, nil
}

// define fills in what SHOW CREATE says.
func (o *Object) define(ctx context.Context, conn *sql.Conn) error {
	rows, err := conn.QueryContext(ctx, "SHOW CREATE "+o.Kind+" "+identifier(o.Name))
	if err != nil {
		return err
	}
	defer rows.Close() // its error is rows.Err
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	if !rows.Next() {
		return errors.Join(rows.Err(), sql.ErrNoRows)
	}
	values := make([]sql.NullString, len(columns))
	into := make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	if err := rows.Scan(into...); err != nil {
		return err
	}
	for i, column := range columns {
		switch {
		case column == "sql_mode":
			o.Mode = values[i].String
		case column == "collation_connection":
			o.Collation = values[i].String
		case strings.HasPrefix(column, "Create "), column == "SQL Original Statement":
			o.Create = values[i].String
		}
	}
	return rows.Err()
}

// dropObjects leaves a schema with tables alone.
func dropObjects(ctx context.Context, conn *sql.Conn, schema contract.DBName) error {
	all, err := named(ctx, conn, schema)
	if err != nil {
		return err
	}
	slices.Reverse(all) // triggers first, then the views; a package's body before the package
	for _, o := range all {
		if _, err := conn.ExecContext(ctx, "DROP "+o.Kind+" IF EXISTS "+identifier(schema.String())+"."+identifier(o.Name)); err != nil {
			return fmt.Errorf("drop %s %q: %w", strings.ToLower(o.Kind), o.Name, err)
		}
		fail.Point("mariadb.object-dropped")
	}
	return nil
}

// DropObjects drops all views, triggers and routines of a site's own schema, so
// that they can be made again.
func (s *Server) DropObjects(ctx context.Context, schema contract.DBName) error {
	conn, err := s.slow.Conn(ctx)
	if err != nil {
		return fmt.Errorf("drop objects of %s: %w", schema, err)
	}
	defer func() { _ = conn.Close() }() // back to the pool
	if err := dropObjects(ctx, conn, schema); err != nil {
		return fmt.Errorf("drop objects of %s: %w", schema, err)
	}
	return nil
}

// Definitions is what Define is told.
type Definitions struct {
	Socket  string
	Schema  contract.DBName
	User    contract.UnixUser
	Objects []Object
}

// Define makes views, triggers and routines in the site's schema. Their text is
// the tenant's, so it runs as the site's own user, never as root: the server then
// checks each against the site's own rights. An object may need another one,
// so those that fail are tried again until nothing more succeeds. It returns what
// is wrong with those that are left.
func Define(ctx context.Context, d Definitions) (left []string, err error) {
	db, err := open(d.Socket, d.User.String(), 5*time.Minute)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("define objects of %s: %w", d.Schema, err)
	}
	defer func() { _ = conn.Close() }() // with its pool
	if _, err := conn.ExecContext(ctx, "USE "+identifier(d.Schema.String())); err != nil {
		return nil, fmt.Errorf("define objects of %s: %w", d.Schema, err)
	}
	pending := d.Objects
	for {
		var failed []Object
		left = nil
		for _, o := range pending {
			if err := o.make(ctx, conn); err != nil {
				failed = append(failed, o)
				left = append(left, fmt.Sprintf("%s %q: %v", strings.ToLower(o.Kind), o.Name, err))
			}
		}
		if len(failed) == 0 || len(failed) == len(pending) {
			return left, ctx.Err()
		}
		pending = failed
	}
}

func (o Object) make(ctx context.Context, conn *sql.Conn) error {
	collation := o.Collation
	if collation == "" {
		collation = "utf8mb4_general_ci"
	}
	for _, setting := range []struct{ query, value string }{
		{"SET SESSION sql_mode = ?", o.Mode},
		{"SET SESSION collation_connection = ?", collation},
	} {
		literal := "'" + strings.NewReplacer(`\`, `\\`, "'", `''`).Replace(setting.value) + "'"
		if _, err := conn.ExecContext(ctx, strings.Replace(setting.query, "?", literal, 1)); err != nil {
			return err
		}
	}
	_, err := conn.ExecContext(ctx, o.Create)
	return err
}
