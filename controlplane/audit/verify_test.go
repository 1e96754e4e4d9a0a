package audit_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

const events = 20 // of each chain in TestVerify

// TestVerify is case A15: whatever is done to the rows, the first that is wrong is named.
func TestVerify(t *testing.T) {
	const set = `UPDATE audit_events SET %s WHERE organization_id = $1 AND sequence = 7`
	const remove = `DELETE FROM audit_events WHERE organization_id = $1 AND sequence %s`
	const setHead = `UPDATE audit_heads SET sequence = 15, hash = (SELECT hash FROM audit_events WHERE organization_id = $1 AND sequence = 15) WHERE organization_id = $1`
	const copied = `INSERT INTO audit_events SELECT organization_id, sequence + 1, happened_at, actor, actor_id, session_id, token_id, impersonator_id, address, request_id, action, object, detail, outcome, hash FROM audit_events WHERE organization_id = $1 AND sequence = 20`
	tests := map[string]struct {
		statements []string
		sequence   int64
		what       string
	}{
		"swapped with the next": {[]string{
			fmt.Sprintf(set, "sequence = -1"),
			`UPDATE audit_events SET sequence = 7 WHERE organization_id = $1 AND sequence = 8`,
			`UPDATE audit_events SET sequence = 8 WHERE organization_id = $1 AND sequence = -1`,
		}, 7, "was changed"},
		"deleted":                              {[]string{fmt.Sprintf(remove, "= 7")}, 7, "is missing, and event 8 follows"},
		"deleted, as the first":                {[]string{fmt.Sprintf(remove, "= 1")}, 1, "is missing, and event 2 follows"},
		"deleted, the rest moved up":           {[]string{fmt.Sprintf(remove, "= 7"), `UPDATE audit_events SET sequence = 1 - sequence WHERE organization_id = $1 AND sequence > 7`, `UPDATE audit_events SET sequence = -sequence WHERE organization_id = $1 AND sequence < 0`}, 7, "was changed"},
		"cut off":                              {[]string{fmt.Sprintf(remove, "> 15")}, 16, "is missing, with all that followed: the head in the database is event 20"},
		"cut off with the head":                {[]string{fmt.Sprintf(remove, "> 15"), setHead}, 16, "is missing, with all that followed: the head written down at "},
		"all deleted":                          {[]string{fmt.Sprintf(remove, "> 0")}, 1, "is missing, with all that followed: the head"},
		"all deleted with the head":            {[]string{fmt.Sprintf(remove, "> 0"), `DELETE FROM audit_heads WHERE organization_id = $1`}, 1, "is missing, with all that followed: the head written down at "},
		"left in place, but the head deleted":  {[]string{`DELETE FROM audit_heads WHERE organization_id = $1`}, 20, "lies behind the end of the chain"},
		"left in place, but the head set back": {[]string{setHead}, 20, "lies behind the end of the chain"},
		"left in place, but the head changed":  {[]string{`UPDATE audit_heads SET hash = $2 WHERE organization_id = $1`}, 20, "is another one than the head in the database"},
		"added at the end":                     {[]string{copied}, 21, "was changed"},
	}
	for _, column := range []string{
		"happened_at = happened_at + 1", "actor = 'person'", "actor_id = 'x'", "session_id = 'x'", "token_id = 'x'", "impersonator_id = 'x'", "address = '192.0.2.1'",
		"address = 'nonsense'", "request_id = 'x'", "action = 'site.delete'", "object = 'x'", "detail = ''", "outcome = 'refused'", "hash = $2",
		"action = action || substr(object, 1, 1), object = substr(object, 2)",
	} {
		tests["changed: "+column] = struct {
			statements []string
			sequence   int64
			what       string
		}{[]string{fmt.Sprintf(set, column)}, 7, "was changed"}
	}
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx, trail := t.Context(), audit.New(d)
		heads := filepath.Join(t.TempDir(), "audit-heads")
		for name, test := range tests {
			t.Run("names a row that was "+name, func(t *testing.T) {
				organization := uuid.NewString()
				for n := range events {
					record(t, ctx, d, organization, fmt.Sprintf("site.do_%d", n))
				}
				writeDown(t, d, heads)
				exported, err := audit.ReadHeads(heads)
				must(t, err)
				of := func(damages []audit.Damage) (found []audit.Damage) {
					for _, one := range damages {
						if one.Organization == organization {
							found = append(found, one)
						}
					}
					return found
				}
				checked, err := trail.Verify(ctx, exported)
				if err != nil || len(of(checked.Damages)) != 0 {
					t.Fatalf("before: %+v, %v", of(checked.Damages), err)
				}
				for _, statement := range test.statements {
					args := []any{organization}
					if strings.Contains(statement, "$2") {
						args = append(args, []byte("x"))
					}
					exec(t, d, statement, args...)
				}
				checked, err = trail.Verify(ctx, exported)
				must(t, err)
				found := of(checked.Damages)
				if len(found) != 1 || found[0].Sequence != test.sequence || !strings.Contains(found[0].What, test.what) {
					t.Errorf("got %+v", found)
				}
			})
		}
		t.Run("trusts no other key", func(t *testing.T) {
			d.SetSealKey([]byte("another key"))
			checked, err := trail.Verify(ctx, nil)
			if err != nil || len(checked.Damages) < int(checked.Chains) {
				t.Errorf("%d damages in %d chains, %v", len(checked.Damages), checked.Chains, err)
			}
		})
	})
}

// writeDown exports the heads into a file, as serve does.
func writeDown(t *testing.T, d *db.DB, path string) string {
	t.Helper()
	log := &strings.Builder{}
	h, err := audit.OpenHeads(d, path, slog.New(slog.NewTextHandler(log, nil)))
	must(t, err)
	must(t, h.Export(t.Context()))
	return log.String()
}

func lines(t *testing.T, path string) int {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return strings.Count(string(text), "\n")
}

func TestHeads(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx, trail := t.Context(), audit.New(d)
		path := filepath.Join(t.TempDir(), "audit-heads")
		one, other := uuid.NewString(), uuid.NewString()
		record(t, ctx, d, one, "a", "b")
		record(t, ctx, d, other, "a")
		t.Run("are written down once, for their owner only", func(t *testing.T) {
			log := writeDown(t, d, path)
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != 0o600 || lines(t, path) != 2 || !strings.Contains(log, "sha256=") {
				t.Errorf("%v, %v, %d lines, the log says %q", info, err, lines(t, path), log)
			}
			if writeDown(t, d, path); lines(t, path) != 2 {
				t.Errorf("%d lines after nothing happened", lines(t, path))
			}
			record(t, ctx, d, one, "c")
			if writeDown(t, d, path); lines(t, path) != 3 {
				t.Errorf("%d lines after one chain grew", lines(t, path))
			}
		})
		t.Run("survive half a line", func(t *testing.T) {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteString(`{"time":"2026-`)
			must(t, err)
			must(t, f.Close())
			record(t, ctx, d, other, "b")
			writeDown(t, d, path)
			heads, err := audit.ReadHeads(path)
			if err != nil || len(heads) != 4 || heads[3].Organization != other || heads[3].Sequence != 2 {
				t.Errorf("got %+v, %v", heads, err)
			}
			if checked, err := trail.Verify(ctx, heads); err != nil || len(checked.Damages) != 0 {
				t.Errorf("got %+v, %v", checked, err)
			}
		})
		t.Run("tell of a chain that was cut off and goes on with other events", func(t *testing.T) {
			exec(t, d, `DELETE FROM audit_events WHERE organization_id = $1 AND sequence = 3`, one)
			exec(t, d, `UPDATE audit_heads SET sequence = 2, hash = (SELECT hash FROM audit_events WHERE organization_id = $1 AND sequence = 2) WHERE organization_id = $1`, one)
			record(t, ctx, d, one, "another", "and another")
			before := lines(t, path)
			if log := writeDown(t, d, path); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, one) || lines(t, path) != before {
				t.Errorf("%d new lines, the log says %q", lines(t, path)-before, log)
			}
			heads, err := audit.ReadHeads(path)
			must(t, err)
			checked, err := trail.Verify(ctx, heads)
			if err != nil || len(checked.Damages) != 1 || checked.Damages[0].Sequence != 3 || !strings.Contains(checked.Damages[0].What, "written down") {
				t.Errorf("got %+v, %v", checked, err)
			}
		})
		t.Run("tell of a chain that is gone", func(t *testing.T) {
			exec(t, d, `DELETE FROM audit_events WHERE organization_id = $1`, other)
			exec(t, d, `DELETE FROM audit_heads WHERE organization_id = $1`, other)
			if log := writeDown(t, d, path); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, other) {
				t.Errorf("the log says %q", log)
			}
		})
		t.Run("that later ones make needless are dropped from a large file", func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit-heads")
			fresh := uuid.NewString()
			record(t, ctx, d, fresh, "a", "b")
			writeDown(t, d, path)
			text, err := os.ReadFile(path)
			must(t, err)
			var line string
			for _, l := range strings.SplitAfter(string(text), "\n") {
				if strings.Contains(l, fresh) {
					line = l
				}
			}
			older := strings.Replace(line, `"sequence":2`, `"sequence":1`, 1)
			must(t, os.WriteFile(path, []byte(strings.Repeat(older, 60_000)+line), 0o600))
			record(t, ctx, d, fresh, "c")
			writeDown(t, d, path)
			heads, err := audit.ReadHeads(path)
			found := slices.IndexFunc(heads, func(h audit.Head) bool { return h.Organization == fresh })
			if err != nil || len(heads) > 10 || found < 0 || heads[found].Sequence != 3 {
				t.Errorf("%d heads, %d of it, %v", len(heads), found, err)
			}
		})
	})
}

// BenchmarkVerify checks a million events.
func BenchmarkVerify(b *testing.B) {
	for engine, open := range map[string]func(testing.TB) *db.DB{"sqlite": dbtest.SQLite, "postgres": dbtest.Postgres} {
		d := open(b)
		for range 10 {
			fill(b, d, 100_000)
		}
		b.Run(engine, func(b *testing.B) {
			for b.Loop() {
				checked, err := audit.New(d).Verify(b.Context(), nil)
				if err != nil || checked.Events != 1_000_000 || len(checked.Damages) != 0 {
					b.Fatalf("got %+v, %v", checked, err)
				}
			}
		})
	}
}
