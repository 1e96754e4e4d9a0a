package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"chom.dev/agent/atomicfile"
	"chom.dev/agent/logfile"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// Registry is what Sites needs of the task engine.
type Registry interface {
	Sites() ([]task.Site, error)
}

// Sites measures the sites of the host: what nginx answered for them, counted from their access logs, and what their processes use.
//
// Counts and how far each log was read are kept in one file, which is replaced as a whole after each look: after a restart, a crash or
// a power loss counting goes on where that file says, and no line is counted twice or left out, as long as it is still in a log that
// is not packed yet (two days, or 100 MB). Only what was asked for before a site's log was looked at for the first time is not counted,
// a minute at most.
type Sites struct {
	registry Registry
	log      *slog.Logger
	file     string
	access   func(contract.Handle) string // where a site's access log is
	cgroups  string

	counts map[contract.SiteID]*count // nil before the first look
}

// count is what was counted of a site since the agent has known it.
type count struct {
	Log      logfile.Bookmark `json:"log"`
	Statuses [5]uint64        `json:"statuses"` // 1xx to 5xx
	Bytes    uint64           `json:"bytes"`
	Seconds  float64          `json:"seconds"`
	Within   []uint64         `json:"within"` // as buckets: how many took no longer, and no less than the former
}

// buckets are in seconds; another one behind them holds the rest.
var buckets = []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// NewSites measures the sites in a registry, keeps its counts in a file, and finds a site's access log by a function.
func NewSites(registry Registry, file string, access func(contract.Handle) string, log *slog.Logger) *Sites {
	return &Sites{registry: registry, log: log, file: file, access: access, cgroups: "/sys/fs/cgroup"}
}

// Gather measures now. What can't be measured is missing. One call at a time.
func (s *Sites) Gather(ctx context.Context) []*linkv1.Sample {
	sites, err := s.registry.Sites()
	if err != nil {
		s.log.Warn("sites could not be measured", "err", err)
		return nil
	}
	if s.counts == nil {
		s.counts = s.load()
	}
	var out []*linkv1.Sample
	known := map[contract.SiteID]bool{}
	for _, site := range sites {
		if ctx.Err() != nil {
			return nil // and nothing is forgotten
		}
		known[site.ID] = true
		c := s.counts[site.ID]
		if c == nil || len(c.Within) != len(buckets)+1 {
			c = &count{Within: make([]uint64, len(buckets)+1)}
			s.counts[site.ID] = c
		}
		if err := c.Log.Read(s.access(site.Handle), c.line); err != nil {
			s.log.Warn("an access log could not be read", "site", site.ID, "err", err)
		}
		out = append(out, c.samples(site.ID)...)
		out = append(out, s.usage(site)...)
	}
	maps.DeleteFunc(s.counts, func(id contract.SiteID, _ *count) bool { return !known[id] })
	if err := s.save(); err != nil {
		s.log.Warn("counts of sites could not be kept", "err", err)
	}
	return out
}

// line counts a line of the log. What is no request is passed over; so is what the host asked itself.
func (c *count) line(text []byte) {
	r, ok := parseRequest(text)
	if !ok || r.local {
		return
	}
	c.Statuses[r.status/100-1]++
	c.Bytes += r.bytes
	c.Seconds += r.seconds
	i := 0
	for i < len(buckets) && r.seconds > buckets[i] {
		i++
	}
	c.Within[i]++
}

// samples are what was counted, in Prometheus' words: a histogram's buckets hold those before them, too.
func (c *count) samples(site contract.SiteID) []*linkv1.Sample {
	var out []*linkv1.Sample
	add := func(series string, value float64) {
		out = append(out, &linkv1.Sample{Series: series, Value: value, SiteId: site.String()})
	}
	for i, n := range c.Statuses {
		if i > 0 || n > 0 { // hardly any site has a 1xx
			add(fmt.Sprintf(`chom_site_requests_total{status="%dxx"}`, i+1), float64(n))
		}
	}
	add("chom_site_sent_bytes_total", float64(c.Bytes))
	total := uint64(0)
	for i, n := range c.Within {
		total += n
		le := "+Inf"
		if i < len(buckets) {
			le = strconv.FormatFloat(buckets[i], 'g', -1, 64)
		}
		add(`chom_site_request_seconds_bucket{le="`+le+`"}`, float64(total))
	}
	add("chom_site_request_seconds_count", float64(total))
	add("chom_site_request_seconds_sum", c.Seconds)
	return out
}

// usage is what a site's slice says. A site without processes has none.
func (s *Sites) usage(site task.Site) []*linkv1.Sample {
	dir := filepath.Join(s.cgroups, "chom.slice", site.Handle.Slice())
	var out []*linkv1.Sample
	if text, err := os.ReadFile(filepath.Join(dir, "cpu.stat")); err == nil {
		if us, ok := field(string(text), "usage_usec"); ok {
			out = append(out, &linkv1.Sample{Series: "chom_site_cpu_seconds_total", Value: us / 1e6, SiteId: site.ID.String()})
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "memory.current")); err == nil {
		if n, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64); err == nil {
			out = append(out, &linkv1.Sample{Series: "chom_site_memory_bytes", Value: n, SiteId: site.ID.String()})
		}
	}
	return out
}

// field is a number in a file of the kernel's with a name and a value on each line.
func field(text, name string) (float64, bool) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			return n, err == nil
		}
	}
	return 0, false
}

// load reads what was kept. A file that cannot be read is none: counting begins anew, as at a host's first start.
func (s *Sites) load() map[contract.SiteID]*count {
	counts := map[contract.SiteID]*count{}
	text, err := os.ReadFile(s.file)
	if err == nil {
		err = json.Unmarshal(text, &counts)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("counts of sites could not be read, they begin anew", "err", err)
		return map[contract.SiteID]*count{}
	}
	maps.DeleteFunc(counts, func(_ contract.SiteID, c *count) bool { return c == nil })
	return counts
}

func (s *Sites) save() error {
	text, err := json.Marshal(s.counts)
	if err != nil {
		return err
	}
	_, err = atomicfile.Write(s.file, text, 0o600, 0)
	return err
}
