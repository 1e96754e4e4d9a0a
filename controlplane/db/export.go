package db

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An export is all rows of all tables as they were at one moment, as a sequence of JSON values, the same of either engine:
//
//	{"table":"members","columns":["organization_id","account_id","role"]}
//	["0198...","0198...","owner"]
//	...
//	{"rows":1234}
//
// Tables come in an order in which each row's references are there before it. A number without a fraction is a BIGINT; what JSON
// has no value for is {"bytes":"base64"} or {"double":"text"}. The last value says how many rows there were: an export without it
// was cut off.

// ErrNotEmpty says that a database holds something already, which an import would destroy.
var ErrNotEmpty = errors.New("the database is not empty")

// Encoder takes the values of an export; a *json.Encoder does.
type Encoder interface{ Encode(value any) error }

// Decoder gives them back; a *json.Decoder does.
type Decoder interface{ Decode(value any) error }

// marker is what of an export is no row.
type marker struct {
	Table   string   `json:"table,omitempty"`
	Columns []string `json:"columns,omitempty"`
	Rows    *int64   `json:"rows,omitempty"`
}

// Export writes all rows, as they are at one moment, while others go on to write. It gives their number. The schema's version
// (Version) is not in it.
func Export(ctx context.Context, d *DB, to Encoder) (rows int64, err error) {
	err = d.engine.snapshot(ctx, func(q Querier) error {
		tables, err := d.engine.tables(ctx, q)
		if err != nil {
			return err
		}
		for _, table := range tables {
			n, err := exportTable(ctx, q, table, to)
			if err != nil {
				return fmt.Errorf("table %s: %w", table, err)
			}
			rows += n
		}
		return to.Encode(marker{Rows: &rows})
	})
	if err != nil {
		return 0, fmt.Errorf("export database: %w", unavailable(err))
	}
	return rows, nil
}

func exportTable(ctx context.Context, q Querier, table string, to Encoder) (n int64, err error) {
	rows, err := q.Query(ctx, "SELECT * FROM "+quoted(table))
	if err != nil {
		return 0, err
	}
	defer func() { err = cmp.Or(err, rows.Close()) }()
	columns, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	types, err := rows.ColumnTypes()
	if err != nil {
		return 0, err
	}
	if err := to.Encode(marker{Table: table, Columns: columns}); err != nil {
		return 0, err
	}
	values, places := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		places[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(places...); err != nil {
			return n, err
		}
		for i, v := range values {
			if n, ok := v.(int64); ok && types[i].DatabaseTypeName() == "BOOLEAN" {
				v = n != 0 // SQLite has no type for it
			}
			if values[i], err = portable(v); err != nil {
				return n, fmt.Errorf("column %s: %w", columns[i], err)
			}
		}
		if err := to.Encode(values); err != nil {
			return n, err
		}
		n++
	}
	return n, rows.Err()
}

// portable is a value of either engine as an export has it.
func portable(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, string, int64:
		return v, nil
	case []byte:
		return map[string]string{"bytes": base64.StdEncoding.EncodeToString(v)}, nil
	case float64:
		return map[string]string{"double": strconv.FormatFloat(v, 'g', -1, 64)}, nil
	}
	return nil, fmt.Errorf("a %T is in no column that this schema may have", v)
}

// value is the reverse of portable.
func value(text json.RawMessage) (any, error) {
	var v any
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	if err := decoder.Decode(&v); err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case nil, bool, string:
		return v, nil
	case json.Number:
		return v.Int64()
	case map[string]any:
		if s, ok := v["bytes"].(string); ok && len(v) == 1 {
			return base64.StdEncoding.DecodeString(s) // not nil for none: that would be NULL
		}
		if s, ok := v["double"].(string); ok && len(v) == 1 {
			f, err := strconv.ParseFloat(s, 64)
			if errors.Is(err, strconv.ErrRange) && !math.IsInf(f, 0) {
				err = nil // too small for a float is none
			}
			return f, err
		}
	}
	return nil, fmt.Errorf("%.40q is no value of an export", text)
}

// Import fills an empty database with an export that was made of a schema with the given version, and brings it to this
// program's newest. It takes all rows or, after an error, none: it can be repeated then. ErrNotEmpty says that there is something
// already, ErrNewer that the export is of a later release. The gap is noted with the rows: see
// Forgotten. Nothing else may use the database meanwhile.
func Import(ctx context.Context, d *DB, version int64, from Decoder, gap Gap) (rows int64, err error) {
	m, err := d.engine.migrator(ctx)
	if err != nil {
		return 0, fmt.Errorf("import database: %w", unavailable(err))
	}
	defer m.close()
	if version > m.newest() {
		return 0, fmt.Errorf("import database: %w (schema %d, known %d)", ErrNewer, version, m.newest())
	}
	have, err := m.goose.GetDBVersion(ctx)
	if err != nil {
		return 0, fmt.Errorf("import database: %w", unavailable(err))
	}
	if have > version {
		return 0, fmt.Errorf("import database: %w: it has schema version %d, the export %d", ErrNotEmpty, have, version)
	}
	if _, err := m.goose.UpTo(ctx, version); err != nil {
		return 0, fmt.Errorf("import database: %w", unavailable(err))
	}
	tables, err := d.engine.tables(ctx, d.Reader())
	if err != nil {
		return 0, fmt.Errorf("import database: %w", unavailable(err))
	}
	if rows, err = importInto(ctx, m.conn, tables, from, gap); err != nil {
		return 0, fmt.Errorf("import database: %w", unavailable(err))
	}
	if _, err := m.goose.Up(ctx); err != nil {
		return 0, fmt.Errorf("import database: %w", unavailable(err))
	}
	return rows, nil
}

func importInto(ctx context.Context, conn *sql.DB, tables []string, from Decoder, gap Gap) (rows int64, err error) {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it has no effect
	for _, table := range []string{"accounts", "organizations", "servers"} {
		var used bool
		if err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+quoted(table)+")").Scan(&used); err != nil {
			return 0, err
		}
		if used {
			return 0, fmt.Errorf("%w: there are %s", ErrNotEmpty, table)
		}
	}
	for _, table := range slices.Backward(tables) { // what migrations put in
		if _, err := tx.ExecContext(ctx, "DELETE FROM "+quoted(table)); err != nil { //nolint:gosec // its own table
			return 0, err
		}
	}
	if rows, err = insertAll(ctx, tx, tables, from); err != nil {
		return 0, err
	}
	for name, at := range map[string]time.Time{forgottenFrom: gap.From, forgottenTo: gap.To} {
		if _, err := tx.ExecContext(ctx, `
			INSERT INTO settings (name, value)
			VALUES ($1, $2)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, at.UTC().Format(time.RFC3339Nano)); err != nil {
			return 0, err
		}
	}
	return rows, tx.Commit()
}

// insertAll reads an export to its end.
func insertAll(ctx context.Context, tx *sql.Tx, tables []string, from Decoder) (rows int64, err error) {
	var into table
	defer func() { into.close() }()
	for {
		var text json.RawMessage
		if err := from.Decode(&text); errors.Is(err, io.EOF) {
			return 0, io.ErrUnexpectedEOF
		} else if err != nil {
			return 0, err
		}
		if text[0] == '[' {
			if err := into.insert(ctx, text); err != nil {
				return 0, fmt.Errorf("table %s, row %d of all: %w", into.name, rows+1, err)
			}
			rows++
			continue
		}
		var m marker
		if err := json.Unmarshal(text, &m); err != nil {
			return 0, fmt.Errorf("%.40q is no part of an export", text)
		}
		if m.Rows != nil {
			if *m.Rows != rows {
				return 0, fmt.Errorf("the export says that it has %d rows, and has %d", *m.Rows, rows)
			}
			return rows, nil
		}
		if !slices.Contains(tables, m.Table) {
			return 0, fmt.Errorf("the export has a table %.64q that its schema has not", m.Table)
		}
		into.close()
		if into, err = open(ctx, tx, m); err != nil {
			return 0, fmt.Errorf("table %s: %w", m.Table, err)
		}
	}
}

// Gap is a time that a database does not remember: it was restored at its end, from a backup made at its beginning.
type Gap struct{ From, To time.Time }

// Settings that hold it.
const (
	forgottenFrom = "forgotten_from"
	forgottenTo   = "forgotten_to"
)

// Forgotten gives the newest gap; the zero Gap when there is none.
func Forgotten(ctx context.Context, q Querier) (g Gap, err error) {
	for name, at := range map[string]*time.Time{forgottenFrom: &g.From, forgottenTo: &g.To} {
		var text string
		err := q.QueryRow(ctx, `SELECT value FROM settings WHERE name = $1`, name).Scan(&text)
		if errors.Is(err, sql.ErrNoRows) {
			return Gap{}, nil
		}
		if err == nil {
			*at, err = time.Parse(time.RFC3339Nano, text)
		}
		if err != nil {
			return Gap{}, fmt.Errorf("read what the database does not remember: %w", err)
		}
	}
	return g, nil
}

// Holds tells whether a moment is in it.
func (g Gap) Holds(at time.Time) bool { return !at.Before(g.From) && !at.After(g.To) }

// table takes rows.
type table struct {
	name    string
	columns int
	stmt    *sql.Stmt
}

func open(ctx context.Context, tx *sql.Tx, m marker) (table, error) {
	var names []string
	for _, c := range m.Columns {
		names = append(names, quoted(c))
	}
	stmt, err := tx.PrepareContext(ctx, fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", quoted(m.Table), strings.Join(names, ", "), Placeholders(1, len(names))))
	return table{m.Table, len(names), stmt}, err
}

func (t *table) close() {
	if t.stmt != nil {
		_ = t.stmt.Close() // nothing is lost with it
	}
}

func (t *table) insert(ctx context.Context, text json.RawMessage) error {
	var cells []json.RawMessage
	if err := json.Unmarshal(text, &cells); err != nil {
		return err
	}
	if t.stmt == nil || len(cells) != t.columns {
		return fmt.Errorf("%d values for %d columns", len(cells), t.columns)
	}
	values := make([]any, len(cells))
	for i, cell := range cells {
		var err error
		if values[i], err = value(cell); err != nil {
			return err
		}
	}
	_, err := t.stmt.ExecContext(ctx, values...)
	return err
}

// quoted is a name for SQL. Names of an export are compared with the schema's before; a column that is none is refused by
// the engine.
func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// txQuerier makes a transaction a Querier.
type txQuerier struct{ tx *sql.Tx }

func (q txQuerier) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return q.tx.QueryContext(ctx, query, args...)
}

func (q txQuerier) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return q.tx.QueryRowContext(ctx, query, args...)
}

// tablesOf reads pairs of a table and one that it refers to, empty for none.
func tablesOf(ctx context.Context, q Querier, query string) ([]string, error) {
	rows, err := q.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close() // its error is rows.Err
	refers := map[string][]string{}
	for rows.Next() {
		var name, other string
		if err := rows.Scan(&name, &other); err != nil {
			return nil, err
		}
		refers[name] = append(refers[name], other)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	for name, others := range refers {
		refers[name] = slices.DeleteFunc(others, func(other string) bool { return other == "" })
	}
	return inOrder(slices.Collect(maps.Keys(refers)), refers)
}

// inOrder sorts tables so that each comes after those that it refers to.
func inOrder(tables []string, refers map[string][]string) ([]string, error) {
	slices.Sort(tables)
	var out []string
	state := map[string]int{} // 1 while it is looked at, 2 once it is in
	var visit func(string) error
	visit = func(t string) error {
		switch state[t] {
		case 1:
			return fmt.Errorf("table %s refers to itself by way of others", t)
		case 2:
			return nil
		}
		state[t] = 1
		for _, other := range refers[t] {
			if other == t {
				continue
			}
			if err := visit(other); err != nil {
				return err
			}
		}
		state[t] = 2
		out = append(out, t)
		return nil
	}
	for _, t := range tables {
		if err := visit(t); err != nil {
			return nil, err
		}
	}
	return out, nil
}
