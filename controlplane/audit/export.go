package audit

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"chom.dev/controlplane/db"
)

// Format is how an export is written.
type Format struct {
	// ContentType names it in HTTP.
	ContentType string

	begin func() []byte
	line  func(*row) ([]byte, error)
}

// Formats. Both have the same columns, by the same names, as text; times are RFC 3339 in UTC with microseconds.
var (
	// JSONLines is one object on a line for each event.
	JSONLines = Format{"application/x-ndjson", func() []byte { return nil }, jsonLine}
	// CSV is RFC 4180 with a header. A cell that a spreadsheet would calculate begins with an apostrophe.
	CSV = Format{"text/csv; charset=utf-8; header=present", csvHeader, csvLine}
)

const (
	exportPage  = 500      // events that are read at once
	exportChunk = 64 << 10 // bytes that are sent at once, and how many an export needs for them
)

// Export writes all events of a query, the oldest first, and calls send with each part of the text. Its memory does not grow
// with the number of events. What is recorded after it began is left out. It ends with the first error of send.
func (t *Trail) Export(ctx context.Context, query Query, format Format, send func([]byte) error) error {
	if query.To.IsZero() {
		query.To = time.Now()
	}
	where, args := query.where()
	buffer := bytes.NewBuffer(format.begin())
	for at, sequence := int64(0), int64(0); ; {
		rows, err := read(ctx, t.db.Reader(), fmt.Sprintf(`
			SELECT`+columns+`
			FROM audit_events
			WHERE `+where+` AND (happened_at, sequence) > ($%d, $%d)
			ORDER BY happened_at, sequence
			LIMIT %d`, len(args)+1, len(args)+2, exportPage), append(args[:len(args):len(args)], at, sequence)...)
		if err != nil {
			return fmt.Errorf("export audit events: %w", err)
		}
		for _, r := range rows {
			line, err := format.line(r)
			if err != nil {
				return fmt.Errorf("export audit events: %w", err)
			}
			buffer.Write(line)
			if buffer.Len() >= exportChunk {
				if err := send(bytes.Clone(buffer.Bytes())); err != nil {
					return err
				}
				buffer.Reset()
			}
		}
		if len(rows) < exportPage {
			break
		}
		at, sequence = rows[len(rows)-1].at, rows[len(rows)-1].sequence
	}
	return send(buffer.Bytes())
}

var exported = []struct {
	name string
	text func(*row) string
}{
	{"organization_id", func(r *row) string { return r.organization }},
	{"sequence", func(r *row) string { return strconv.FormatInt(r.sequence, 10) }},
	{"time", func(r *row) string { return db.Time(r.at).Format("2006-01-02T15:04:05.000000Z") }},
	{"actor", func(r *row) string { return r.actor }},
	{"actor_id", func(r *row) string { return r.actorID }},
	{"session_id", func(r *row) string { return r.session }},
	{"token_id", func(r *row) string { return r.token }},
	{"impersonator_id", func(r *row) string { return r.impersonator }},
	{"address", func(r *row) string { return r.address }},
	{"request_id", func(r *row) string { return r.request }},
	{"action", func(r *row) string { return r.action }},
	{"object", func(r *row) string { return r.object }},
	{"detail", func(r *row) string { return r.detail }},
	{"outcome", func(r *row) string { return r.outcome }},
}

func jsonLine(r *row) ([]byte, error) {
	line := []byte("{")
	for i, column := range exported {
		if i > 0 {
			line = append(line, ',')
		}
		text, err := json.Marshal(column.text(r))
		if err != nil {
			return nil, err
		}
		line = append(append(strconv.AppendQuote(line, column.name), ':'), text...)
	}
	return append(line, "}\n"...), nil
}

func csvHeader() []byte {
	var names []string
	for _, column := range exported {
		names = append(names, column.name)
	}
	return []byte(strings.Join(names, ",") + "\r\n")
}

func csvLine(r *row) ([]byte, error) {
	var cells []string
	for _, column := range exported {
		cells = append(cells, inert(column.text(r)))
	}
	var line bytes.Buffer
	w := csv.NewWriter(&line)
	w.UseCRLF = true
	if err := w.Write(cells); err != nil {
		return nil, err
	}
	w.Flush()
	return line.Bytes(), w.Error()
}

// inert keeps spreadsheets from calculating what a stranger wrote: they take a cell for a formula by how it begins, and some
// take the full-width forms, or what follows spaces, for the same.
func inert(cell string) string {
	if rest := strings.TrimLeft(cell, " \t\r\n\u00a0\u3000"); rest != "" && strings.ContainsRune("=+-@＝＋－＠", []rune(rest)[0]) || strings.ContainsAny(cell[:min(1, len(cell))], "\t\r\n") {
		return "'" + cell
	}
	return cell
}
