package audit_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

func export(t *testing.T, trail *audit.Trail, query audit.Query, format audit.Format) string {
	t.Helper()
	var text bytes.Buffer
	must(t, trail.Export(t.Context(), query, format, func(part []byte) error {
		text.Write(part)
		return nil
	}))
	return text.String()
}

func TestExport(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx, trail := t.Context(), audit.New(d)
		t.Run("writes JSON, a line for each event, the oldest first", func(t *testing.T) {
			organization, actor := uuid.NewString(), person()
			record(t, audit.As(ctx, actor), d, organization, "a", `b"},{"`)
			record(t, ctx, d, uuid.NewString(), "of others")
			lines := strings.Split(strings.TrimSuffix(export(t, trail, audit.Query{Organization: organization}, audit.JSONLines), "\n"), "\n")
			if len(lines) != 2 {
				t.Fatalf("%d lines", len(lines))
			}
			var second map[string]string
			must(t, json.Unmarshal([]byte(lines[1]), &second))
			for name, want := range map[string]string{
				"organization_id": organization, "sequence": "2", "actor": "person", "actor_id": actor.ID, "session_id": actor.Session, "token_id": "",
				"impersonator_id": actor.Impersonator, "address": "2001:db8::1", "request_id": "REQUEST", "action": `b"},{"`, "detail": "some words", "outcome": "done",
			} {
				if second[name] != want {
					t.Errorf("%s is %q", name, second[name])
				}
			}
			if len(second) != 14 {
				t.Errorf("%d columns", len(second))
			}
		})
		t.Run("writes CSV that no spreadsheet calculates", func(t *testing.T) {
			organization := uuid.NewString()
			formulas := []string{`=HYPERLINK("http://x","y")`, "+1", "-1+2", "@SUM(A1)", " =1", "＝1", "plain, with \"quotes\"", "a=b"}
			for _, formula := range formulas {
				must(t, db.InTx(ctx, d, func(tx *db.Tx) error {
					return audit.Record(ctx, tx, audit.Event{Organization: organization, Action: "x", Object: formula, Detail: formula})
				}))
			}
			text := export(t, trail, audit.Query{Organization: organization}, audit.CSV)
			rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
			if err != nil || len(rows) != 1+len(formulas) || rows[0][0] != "organization_id" || !strings.Contains(text, "\r\n") {
				t.Fatalf("got %q, %v", rows, err)
			}
			for i, formula := range formulas {
				want := "'" + formula
				if i >= 6 {
					want = formula
				}
				if row := rows[i+1]; row[12] != want || row[11] != want {
					t.Errorf("%q became %q", formula, row[12])
				}
			}
		})
		t.Run("filters", func(t *testing.T) {
			organization := uuid.NewString()
			record(t, ctx, d, organization, "site.create", "task.cancel")
			if text := export(t, trail, audit.Query{Organization: organization, Action: "task."}, audit.JSONLines); strings.Count(text, "\n") != 1 || !strings.Contains(text, "task.cancel") {
				t.Errorf("got %q", text)
			}
		})
		t.Run("needs no more memory for more events", func(t *testing.T) {
			const many = 20_000
			organization := fill(t, d, many)
			sequence, parts, peak := 0, 0, uint64(0)
			var rest []byte
			err := trail.Export(ctx, audit.Query{Organization: organization}, audit.JSONLines, func(part []byte) error {
				parts++
				if len(part) > 100<<10 {
					t.Errorf("a part of %d bytes", len(part))
				}
				lines := bytes.SplitAfter(append(rest, part...), []byte("\n"))
				rest = bytes.Clone(lines[len(lines)-1])
				for _, line := range lines[:len(lines)-1] {
					var event map[string]string
					must(t, json.Unmarshal(line, &event))
					if sequence++; event["sequence"] != strconv.Itoa(sequence) {
						t.Fatalf("event %s comes where %d should", event["sequence"], sequence)
					}
				}
				if parts%20 == 0 {
					runtime.GC()
					var memory runtime.MemStats
					runtime.ReadMemStats(&memory)
					if parts == 20 {
						peak = memory.HeapInuse + 8<<20
					} else if memory.HeapInuse > peak {
						t.Errorf("the heap grew to %d", memory.HeapInuse)
					}
				}
				return nil
			})
			if err != nil || sequence != many || parts < 60 {
				t.Errorf("%d events in %d parts, %v", sequence, parts, err)
			}
		})
		t.Run("ends with the one who reads", func(t *testing.T) {
			gone, calls := errors.New("gone"), 0
			err := trail.Export(ctx, audit.Query{Organization: fill(t, d, 2000)}, audit.CSV, func([]byte) error { calls++; return gone })
			if !errors.Is(err, gone) || calls != 1 {
				t.Errorf("%v after %d calls", err, calls)
			}
		})
	})
}
