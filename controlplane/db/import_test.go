package db_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

// fill puts rows into tables that refer to each other, with values that are easily lost on the way.
func fill(t *testing.T, d *db.DB) {
	t.Helper()
	for _, statement := range []struct {
		query string
		args  []any
	}{
		{`INSERT INTO settings (name, value) VALUES ($1, $2)`, []any{"a \"quoted\"\\ name", "line\nline\t\u2028 \x01 ü 漢 <>&"}},
		{`INSERT INTO settings (name, value) VALUES ($1, $2)`, []any{"", ""}},
		{`INSERT INTO accounts (id, email, operator, password_hash, verified_at, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
			[]any{"a1", "a@example.com", true, nil, nil, int64(math.MaxInt64)}},
		{`INSERT INTO organizations (id, name, state, require_second_factor, created_at) VALUES ($1, $2, 'active', false, $3)`, []any{"o1", "one", int64(math.MinInt64)}},
		{`INSERT INTO members (organization_id, account_id, role, all_sites, created_at) VALUES ('o1', 'a1', 'owner', true, 9007199254740993)`, nil},
		{`INSERT INTO audit_heads (organization_id, sequence, hash) VALUES ('o1', 1, $1)`, []any{[]byte{0, 255, 34, 92}}},
		{`INSERT INTO audit_heads (organization_id, sequence, hash) VALUES ('o2', 1, $1)`, []any{[]byte{}}},
	} {
		exec(t, d, statement.query, statement.args...)
	}
}

func export(t *testing.T, d *db.DB) string {
	t.Helper()
	var text bytes.Buffer
	if _, err := db.Export(t.Context(), d, json.NewEncoder(&text)); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// canonical is an export without the order of tables and rows.
func canonical(text string) string {
	var all []string
	var table string
	for _, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, `{"table"`) {
			table = line
		}
		all = append(all, table+line)
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func TestExport(t *testing.T) {
	gap := db.Gap{From: time.Date(2026, 11, 25, 3, 0, 0, 7, time.UTC), To: time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)}
	newest := func(t *testing.T, d *db.DB) int64 {
		have, _, err := db.Version(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		return have
	}
	fresh := map[string]func(*testing.T) *db.DB{
		"sqlite":   func(t *testing.T) *db.DB { return dbtest.Open(t, "sqlite:"+t.TempDir()+"/fresh.db") },
		"postgres": func(t *testing.T) *db.DB { return dbtest.Open(t, dbtest.PostgresURL(t)) },
	}
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		if got, err := db.Forgotten(t.Context(), d.Reader()); err != nil || got != (db.Gap{}) {
			t.Errorf("of one that was never restored: %v, %v", got, err)
		}
		fill(t, d)
		text := export(t, d)
		version := newest(t, d)
		for engine, make := range fresh {
			t.Run("comes back the same in "+engine, func(t *testing.T) {
				other := make(t)
				rows, err := db.Import(t.Context(), other, version, json.NewDecoder(strings.NewReader(text)), gap)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := db.Forgotten(t.Context(), other.Reader()); err != nil || !got.From.Equal(gap.From) || !got.To.Equal(gap.To) {
					t.Errorf("forgotten: %v, %v", got, err)
				}
				exec(t, other, `DELETE FROM settings WHERE name LIKE 'forgotten%'`)
				if rows < 7 {
					t.Errorf("%d rows", rows)
				}
				if again := export(t, other); canonical(again) != canonical(text) {
					t.Errorf("there\n%s\nback\n%s", text, again)
				}
				if _, err := db.Import(t.Context(), other, version, json.NewDecoder(strings.NewReader(text)), gap); !errors.Is(err, db.ErrNotEmpty) {
					t.Errorf("into what is not empty: %v", err)
				}
			})
			t.Run("is taken as a whole or not at all in "+engine, func(t *testing.T) {
				other := make(t)
				lines := strings.SplitAfter(text, "\n")
				for _, cut := range []string{
					"", strings.Join(lines[:len(lines)-2], ""), text[:len(text)/2],
					strings.Replace(text, `{"rows":`, `{"rows":1`, 1),
					strings.Replace(text, `"settings"`, `"nothing"`, 1),
					strings.Replace(text, `["o1",`, `["o1",1,`, 1),
					strings.Replace(text, `"owner"`, `"emperor"`, 1), // the schema's own rule
				} {
					if _, err := db.Import(t.Context(), other, version, json.NewDecoder(strings.NewReader(cut)), gap); err == nil {
						t.Errorf("taken: %s", cut)
					} else if cut == "" && !errors.Is(err, io.ErrUnexpectedEOF) {
						t.Errorf("cut off: %v", err)
					}
				}
				if _, err := db.Import(t.Context(), other, version+1, json.NewDecoder(strings.NewReader(text)), gap); !errors.Is(err, db.ErrNewer) {
					t.Errorf("of a later release: %v", err)
				}
				if _, err := db.Import(t.Context(), other, version, json.NewDecoder(strings.NewReader(text)), gap); err != nil {
					t.Errorf("after all that: %v", err)
				}
			})
		}
		t.Run("shows one moment", func(t *testing.T) {
			var text bytes.Buffer
			late := &latecomer{t: t, d: d, next: json.NewEncoder(&text)}
			if _, err := db.Export(t.Context(), d, late); err != nil {
				t.Fatal(err)
			}
			if !late.came || strings.Contains(text.String(), "latecomer") {
				t.Errorf("what was written meanwhile is in it, or was not written: %s", text.String())
			}
		})
	})
}

// latecomer writes to every table that it may while it is exported.
type latecomer struct {
	t    *testing.T
	d    *db.DB
	next db.Encoder
	came bool
}

func (l *latecomer) Encode(v any) error {
	if !l.came {
		l.came = true
		err := db.InTx(context.WithoutCancel(l.t.Context()), l.d, func(tx *db.Tx) error {
			for _, query := range []string{
				`INSERT INTO settings (name, value) VALUES ('latecomer', '')`,
				`INSERT INTO accounts (id, email, operator, created_at) VALUES ('latecomer', 'latecomer@example.com', false, 1)`,
			} {
				if _, err := tx.Exec(l.t.Context(), query); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			l.t.Error(err)
		}
	}
	return l.next.Encode(v)
}
