package metrics

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"chom.dev/proto/contract"
)

// Sample is one value of one metric, as a host says it.
type Sample struct {
	Series string // name and labels, in Prometheus' text form
	Site   string // the site that it is of; empty for the host itself
	Value  float64
}

// Labels that are set here and nowhere else.
const (
	organizationLabel = "organization"
	serverLabel       = "server"
	siteLabel         = "site"
)

const (
	// maxHostSeries is how many series a host may begin in two hours: node_exporter's and those of some 250 sites. A host that
	// invents series ends here.
	maxHostSeries = 6000
	// maxSeries of all hosts together: they take 1 to 2 KiB each while they are new.
	maxSeries = 1_000_000
	// apart is less than any time between two reports. What comes sooner is a repeat, and would make rates look smaller.
	apart     = 10 * time.Second
	maxText   = 512 // bytes of a series in text
	maxLabels = 16  // of a series, as the host says it
)

// host is what is known of the series of one server, so that a report is parsed once and not every minute.
type host struct {
	mu     sync.Mutex // held while a report of it is taken in
	series map[uint64]known
}

// known is a series under the hash of all that names it. Hashes are a host's own, and their seed is secret: whoever makes two
// collide mixes up two series of his own.
type known struct {
	ref  storage.SeriesRef
	seen int64 // when, in Unix milliseconds
}

var seed = maphash.MakeSeed()

// Append keeps what a server reported. What is malformed, or of a site that the server does not hold, is left out and counted;
// no error follows from it. Where nothing is kept at all, nothing happens.
func (m *Metrics) Append(ctx context.Context, server contract.ServerID, samples []Sample, now time.Time) error {
	if len(samples) == 0 {
		return nil
	}
	history, release, err := m.use()
	if err != nil {
		return nil //nolint:nilerr // it is switched off, or not open yet: the next report comes in a minute
	}
	defer release()
	owners, err := m.owners(ctx, server)
	if err != nil {
		return err
	}
	h := m.host(server)
	h.mu.Lock()
	defer h.mu.Unlock()
	app := history.Appender(ctx)
	counts := map[string]int{}
	for _, s := range samples {
		outcome, err := m.add(history, app, h, owners, s, now)
		if err != nil {
			_ = app.Rollback() // the reason counts
			m.samples.WithLabelValues("failed").Add(float64(len(samples)))
			return fmt.Errorf("keep metrics of server %s: %w", server, err)
		}
		counts[outcome]++
	}
	if err := app.Commit(); err != nil {
		m.samples.WithLabelValues("failed").Add(float64(len(samples)))
		return fmt.Errorf("keep metrics of server %s: %w", server, err)
	}
	for outcome, n := range counts {
		m.samples.WithLabelValues(outcome).Add(float64(n))
	}
	return nil
}

// owners says whose the series of a server are: its own under "", a site's under its id.
type owners struct {
	server        string
	organizations map[string]string
}

func (m *Metrics) owners(ctx context.Context, server contract.ServerID) (owners, error) {
	// What a server holds is of many organizations: it is the server that is asked for.
	rows, err := m.db.Reader().Query(ctx, `
		SELECT '',
		       COALESCE(organization_id, '')
		FROM servers
		WHERE id = $1
		UNION ALL
		SELECT id,
		       organization_id
		FROM sites
		WHERE server_id = $1
		  AND phase <> 'absent'`,
		server)
	if err != nil {
		return owners{}, fmt.Errorf("read whose the metrics of server %s are: %w", server, err)
	}
	defer rows.Close()
	o := owners{server: server.String(), organizations: map[string]string{}}
	for rows.Next() {
		var site, organization string
		if err := rows.Scan(&site, &organization); err != nil {
			return owners{}, fmt.Errorf("read whose the metrics of server %s are: %w", server, err)
		}
		o.organizations[site] = organization
	}
	return o, rows.Err()
}

func (m *Metrics) host(server contract.ServerID) *host {
	m.hostsMu.Lock()
	defer m.hostsMu.Unlock()
	h := m.hosts[server]
	if h == nil {
		h = &host{series: map[uint64]known{}}
		m.hosts[server] = h
	}
	return h
}

// add says what became of a sample.
func (m *Metrics) add(history *tsdb.DB, app storage.Appender, h *host, o owners, s Sample, now time.Time) (outcome string, err error) {
	organization, ok := o.organizations[s.Site]
	if !ok {
		return "foreign", nil
	}
	if len(s.Series) > maxText || math.IsNaN(s.Value) {
		return "malformed", nil
	}
	key, at := keyOf(organization, s), now.UnixMilli()
	have, ok := h.series[key]
	if ok && at >= have.seen && at-have.seen < apart.Milliseconds() {
		return "again", nil
	}
	if ok {
		ref, err := app.Append(have.ref, labels.EmptyLabels(), at, s.Value)
		if err == nil {
			h.series[key] = known{ref, at}
			return "kept", nil
		}
		if late(err) {
			return "late", nil
		}
		// It is not there any more: nobody spoke of it for long.
	}
	if !ok && !h.room(at) || history.Head().NumSeries() >= m.maxTotal {
		return "beyond", nil
	}
	named, ok := parse(s.Series)
	if !ok {
		return "malformed", nil
	}
	b := labels.NewBuilder(named)
	b.Set(organizationLabel, organization).Set(serverLabel, o.server).Set(siteLabel, s.Site) // an empty one is none
	ref, err := app.Append(0, b.Labels(), at, s.Value)
	if late(err) {
		return "late", nil
	}
	if err != nil {
		return "", err
	}
	h.series[key] = known{ref, at}
	return "kept", nil
}

// late says that a sample is refused for its time alone.
func late(err error) bool {
	return errors.Is(err, storage.ErrOutOfOrderSample) || errors.Is(err, storage.ErrOutOfBounds) || errors.Is(err, storage.ErrTooOldSample) ||
		errors.Is(err, storage.ErrDuplicateSampleForTimestamp)
}

// keyOf is the hash of all that names a series of a server.
func keyOf(organization string, s Sample) uint64 {
	var hash maphash.Hash
	hash.SetSeed(seed)
	for _, part := range []string{organization, s.Site, s.Series} {
		_, _ = hash.WriteString(part) // it never fails
		_ = hash.WriteByte(0)
	}
	return hash.Sum64()
}

// room says whether a host may begin another series. Series that it did not speak of for two hours are forgotten; the TSDB does so,
// too.
func (h *host) room(at int64) bool {
	if len(h.series) < maxHostSeries {
		return true
	}
	for key, k := range h.series {
		if at-k.seen > block.Milliseconds() {
			delete(h.series, key)
		}
	}
	return len(h.series) < maxHostSeries
}

var texts = parser.NewParser(parser.Options{})

// parse reads a series as a host names it. It refuses the labels that are ours, and whatever Prometheus keeps for itself.
func parse(text string) (labels.Labels, bool) {
	named, err := texts.ParseMetric(text)
	if err != nil || named.Len() > maxLabels || !model.LegacyValidation.IsValidMetricName(named.Get(model.MetricNameLabel)) {
		return named, false
	}
	usable := true
	named.Range(func(l labels.Label) {
		switch {
		case l.Name == model.MetricNameLabel:
		case l.Name == organizationLabel, l.Name == serverLabel, l.Name == siteLabel, strings.HasPrefix(l.Name, "__"),
			!model.LegacyValidation.IsValidLabelName(l.Name):
			usable = false
		}
	})
	return named, usable
}
