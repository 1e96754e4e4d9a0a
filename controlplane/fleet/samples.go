package fleet

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"chom.dev/controlplane/db"
	"chom.dev/proto/contract"
)

// Sample is one value of one of a host's metrics.
type Sample struct {
	Series string // name and labels, as in Prometheus' text form
	Value  float64
}

const (
	maxSamples = 2000 // of one report
	maxSeries  = 512  // bytes of a series' name
	// samplesKept is how long a series lives that is not reported any more; reports come once a minute.
	samplesKept = 5 * time.Minute
	// maxKept bounds what an agent that invents series can store until then.
	maxKept = 2 * maxSamples
)

// SaveSamples writes the newest values of a server's metrics. Malformed series and values that are no number are left out.
func SaveSamples(ctx context.Context, tx *db.Tx, server contract.ServerID, samples []Sample, now time.Time) error {
	at := db.Micros(now)
	for rest := usable(samples); len(rest) > 0; {
		size := sampleChunk(len(rest))
		args := make([]any, 0, 2+2*size)
		args = append(args, server, at)
		for _, s := range rest[:size] {
			args = append(args, s.Series, s.Value)
		}
		if _, err := tx.Exec(ctx, saveSamplesTexts[size], args...); err != nil {
			return fmt.Errorf("save samples of server %s: %w", server, err)
		}
		rest = rest[size:]
	}
	return forgetSamples(ctx, tx, server, now)
}

// usable is what may be stored, each series once, with its last value.
func usable(samples []Sample) []Sample {
	kept := make([]Sample, 0, min(len(samples), maxSamples))
	seen := make(map[string]bool, cap(kept))
	for _, s := range slices.Backward(samples) {
		if len(kept) == maxSamples {
			break
		}
		// SQLite stores NaN as NULL.
		if s.Series == "" || len(s.Series) > maxSeries || !utf8.ValidString(s.Series) ||
			strings.ContainsFunc(s.Series, unicode.IsControl) || math.IsNaN(s.Value) || seen[s.Series] {
			continue
		}
		seen[s.Series] = true
		kept = append(kept, s)
	}
	return kept
}

// sampleChunks are the numbers of rows for which there is a statement, so that few texts have to stay prepared.
var sampleChunks = []int{200, 20, 1}

var saveSamplesTexts = func() map[int]string {
	texts := map[int]string{}
	for _, size := range sampleChunks {
		texts[size] = saveSamplesStatement(size)
	}
	return texts
}()

func sampleChunk(rows int) int {
	for _, size := range sampleChunks {
		if rows >= size {
			return size
		}
	}
	return 1
}

func saveSamplesStatement(rows int) string {
	var b strings.Builder
	b.WriteString(`
		INSERT INTO server_samples (server_id, sampled_at, series, value)
		VALUES `)
	for i := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "($1, $2, $%d, $%d)", 2*i+3, 2*i+4)
	}
	b.WriteString(`
		ON CONFLICT (server_id, series) DO UPDATE
		SET value = excluded.value,
		    sampled_at = excluded.sampled_at`)
	return b.String()
}

func forgetSamples(ctx context.Context, tx *db.Tx, server contract.ServerID, now time.Time) error {
	var kept int64
	if _, err := tx.Exec(ctx, `
		DELETE FROM server_samples
		WHERE server_id = $1
		  AND sampled_at < $2`,
		server, db.Micros(now.Add(-samplesKept))); err != nil {
		return fmt.Errorf("forget samples of server %s: %w", server, err)
	}
	if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM server_samples WHERE server_id = $1`, server).Scan(&kept); err != nil {
		return fmt.Errorf("count samples of server %s: %w", server, err)
	}
	if kept <= maxKept {
		return nil
	}
	if _, err := tx.Exec(ctx, `
		DELETE FROM server_samples
		WHERE server_id = $1
		  AND sampled_at < $2`,
		server, db.Micros(now)); err != nil {
		return fmt.Errorf("forget samples of server %s: %w", server, err)
	}
	return nil
}

// Samples gives the newest values of a server's metrics, by series.
func (f *Fleet) Samples(ctx context.Context, server contract.ServerID) ([]Sample, error) {
	rows, err := f.db.Reader().Query(ctx, `
		SELECT series,
		       value
		FROM server_samples
		WHERE server_id = $1
		ORDER BY series`,
		server)
	if err != nil {
		return nil, fmt.Errorf("read samples of server %s: %w", server, err)
	}
	defer rows.Close()
	var all []Sample
	for rows.Next() {
		var s Sample
		if err := rows.Scan(&s.Series, &s.Value); err != nil {
			return nil, fmt.Errorf("read samples of server %s: %w", server, err)
		}
		all = append(all, s)
	}
	return all, rows.Err()
}
