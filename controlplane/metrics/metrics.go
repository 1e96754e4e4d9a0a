// Package metrics is the history of what hosts measure: of themselves, and of the sites on them. It keeps an embedded Prometheus
// TSDB in a folder of this process, and answers PromQL about it. It measures nothing itself; package link brings what agents
// report, and what this process says of itself goes to a Prometheus of the operator's (/metrics).
//
// # Whose a series is
//
// Each series has the labels organization, server and, those of sites, site. They are set here, from the database, when a report
// comes in: a host has no say in them, and what it says of a site that it does not hold is not kept. A server's own series belong
// to the organization whose dedicated server it is; those of a shared one have an empty organization, like no label at all.
//
// A Scope is what a caller may see. It is added to every selector of an expression's parsed tree; and the storage below the engine
// refuses to select without it, whatever the engine makes of the expression (scope.go).
//
// # What is lost
//
// A report is in the write-ahead log before it is answered. A process that is killed loses nothing of that; a machine that loses
// its power loses what its kernel had not yet written, half a minute or so. What comes while the database is being opened, or while its
// disk is full, is not kept: the next report comes a minute later.
//
// Times are this process's. When its clock is set back, by up to an hour, what comes meanwhile is sorted in; by more, it is not kept
// until the former time comes again. A report that comes twice within some seconds is kept once.
//
// With several replicas each keeps what its own agents sent, and answers from that: a picture is whole where one replica has been
// talked to. Sending it all to one place (remote write) is a later matter.
package metrics

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/compression"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// Defaults of Config.
const (
	DefaultRetention = 30 * 24 * time.Hour
	DefaultMaxBytes  = int64(8 << 30) // 100 servers take a quarter of it in 30 days
)

// MinRetention is the least that one can keep: a block of the TSDB is two hours long.
const MinRetention = 2 * time.Hour

// Config is how much is kept and where.
type Config struct {
	Dir string // made when it is not there; no other process may use it
	// Retention is how long a sample is kept; 0 keeps none at all, and then nothing is answered.
	Retention time.Duration
	// MaxBytes is what it may take on disk. Beyond, the oldest goes, in blocks of two hours to a tenth of Retention; the newest two
	// hours are kept all the same.
	MaxBytes int64
	Log      *slog.Logger
	Metrics  prometheus.Registerer // nil for none
}

// Metrics keeps the history. It is safe for concurrent use. Run opens it.
type Metrics struct {
	db       *db.DB
	config   Config
	log      *slog.Logger
	samples  *prometheus.CounterVec
	engine   *promql.Engine
	slots    *slots
	mu       sync.RWMutex
	history  *tsdb.DB // nil while it is not open
	hosts    map[contract.ServerID]*host
	hostsMu  sync.Mutex
	maxTotal uint64
}

// errOff and errClosed are what questions get meanwhile.
var (
	errOff    = fault.Conflict("this control plane keeps no metrics (metrics-retention)")
	errClosed = fault.Unavailable("the history of metrics is being opened", 5*time.Second, nil)
)

// New keeps the history of a fleet's hosts. Nothing is opened before Run.
func New(d *db.DB, c Config) (*Metrics, error) {
	m := &Metrics{
		db: d, config: c, log: c.Log, hosts: map[contract.ServerID]*host{}, slots: newSlots(), engine: newEngine(), maxTotal: maxSeries,
		samples: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "chom_metrics_samples_total",
			Help: "Samples that agents reported: kept, malformed, foreign (of a site that the server does not hold), beyond (more series than a host may have), late, again (a repeat), failed.",
		}, []string{"outcome"}),
	}
	if c.Metrics != nil {
		if err := c.Metrics.Register(m.samples); err != nil {
			return nil, fmt.Errorf("keep metrics: %w", err)
		}
	}
	return m, nil
}

// openAgain is how long to wait after a failure; a full disk does not mend itself sooner.
const openAgain = time.Minute

// Run opens the history, and closes it when ctx ends. It is tried again for ever: a control plane whose history cannot be opened
// goes on without.
func (m *Metrics) Run(ctx context.Context) error {
	if m.config.Retention == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	for {
		began := time.Now()
		history, err := open(m.config)
		if err == nil {
			m.set(history)
			m.log.Info("the history of metrics is open", "series", history.Head().NumSeries(), "took", time.Since(began).Round(time.Millisecond))
			<-ctx.Done()
			m.set(nil)
			if err := history.Close(); err != nil {
				return fmt.Errorf("close the history of metrics: %w", err)
			}
			return ctx.Err()
		}
		m.log.Error("the history of metrics cannot be opened, nothing is kept", "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(openAgain):
		}
	}
}

// set waits until nobody uses the former one.
func (m *Metrics) set(history *tsdb.DB) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.history = history
}

// use gives the history, which stays open until release is called.
func (m *Metrics) use() (history *tsdb.DB, release func(), err error) {
	if m.config.Retention == 0 {
		return nil, nil, errOff
	}
	m.mu.RLock()
	if m.history == nil {
		m.mu.RUnlock()
		return nil, nil, errClosed
	}
	return m.history, m.mu.RUnlock, nil
}

const (
	block = 2 * time.Hour // what the newest samples are kept in memory for, and half as much again
	// sortedIn is how late a sample may be, for clocks that are set back.
	sortedIn = time.Hour
	// stripes of locks: some hundred agents report at a time, not thousands.
	stripes = 1 << 10
)

func open(c Config) (*tsdb.DB, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the history of metrics: %w", err)
	}
	o := tsdb.DefaultOptions()
	o.RetentionDuration = c.Retention.Milliseconds()
	o.MaxBytes = c.MaxBytes
	o.MaxBlockDuration = max(block, c.Retention/10).Milliseconds()
	o.OutOfOrderTimeWindow = sortedIn.Milliseconds()
	o.WALCompression = compression.Snappy
	o.StripeSize = stripes
	// Its own figures are of no use beside ours, and would be registered again when it is opened again.
	return tsdb.Open(c.Dir, slog.New(quiet{c.Log.Handler()}), nil, o, nil)
}

// quiet leaves out what the TSDB says of its daily work.
type quiet struct{ slog.Handler }

// Enabled implements slog.Handler.
func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && q.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup implements slog.Handler.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
