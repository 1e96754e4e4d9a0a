package swarm

import (
	"fmt"
	"math"
	"strconv"
	"time"

	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// meter holds a host's counters. They only grow, and outlive the agent's processes as a kernel's do.
type meter struct {
	last  time.Time
	host  map[string]float64            // by series
	sites map[string]map[string]float64 // by site and series
}

// load is how busy a fake host is, 0 to 1: it comes and goes within ten minutes.
func load(at time.Time) float64 {
	return 0.3 + 0.2*math.Sin(2*math.Pi*float64(at.Unix())/600)
}

// Buckets of the agent's histogram of requests, and the part of the requests of a fake site that each holds with those before it.
var (
	bucketOf = []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}
	withinOf = []float64{0.35, 0.7, 0.9, 0.96, 0.99, 0.998, 0.999, 1}
	statusOf = map[string]float64{"2xx": 0.9, "3xx": 0.06, "4xx": 0.03, "5xx": 0.01}
)

const (
	cores          = 2
	memory         = 2 << 30
	disk           = 40 << 30
	requestsPerSec = 3.0 // of a site, at full load
	secondsEach    = 0.12
	bytesEach      = 24_000
)

// measure says what a small web server would measure of itself and of each site that it serves, under the names that the agent has
// for it.
func (h *host) measure(now time.Time) []*linkv1.Sample {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := &h.meter
	if m.host == nil {
		m.last, m.host, m.sites = now, map[string]float64{}, map[string]map[string]float64{}
	}
	passed, busy := now.Sub(m.last).Seconds(), load(now)
	m.last = now
	m.tick(passed, busy)
	out := samplesOf(m.host, "")
	for series, value := range map[string]float64{
		"node_load1": busy * cores, "node_load5": 0.3 * cores, "node_load15": 0.3 * cores,
		"node_memory_MemTotal_bytes": memory, "node_memory_MemAvailable_bytes": memory * (0.8 - busy/2),
		"node_memory_SwapTotal_bytes": 0, "node_memory_SwapFree_bytes": 0,
		`node_filesystem_size_bytes{device="/dev/vda1",fstype="ext4",mountpoint="/"}`:  disk,
		`node_filesystem_avail_bytes{device="/dev/vda1",fstype="ext4",mountpoint="/"}`: disk * 0.75,
	} {
		out = append(out, &linkv1.Sample{Series: series, Value: value})
	}
	for site, phase := range h.phases {
		if phase != sitev1.Phase_PHASE_ACTIVE {
			delete(m.sites, site)
			continue
		}
		if m.sites[site] == nil {
			m.sites[site] = map[string]float64{}
		}
		serve(m.sites[site], passed, busy)
		grow(m.sites[site], h.types[site], now)
		out = append(out, samplesOf(m.sites[site], site)...)
		out = append(out, &linkv1.Sample{Series: "chom_site_memory_bytes", Value: 90_000_000 * (1 + busy), SiteId: site})
	}
	return out
}

// tick lets the host's own counters go on.
func (m *meter) tick(seconds, busy float64) {
	parts := map[string]float64{"user": 0.7 * busy, "system": 0.2 * busy, "iowait": 0.1 * busy, "steal": 0.01, "idle": 0.99 - busy}
	for core := range cores {
		for mode, part := range parts {
			m.host[fmt.Sprintf(`node_cpu_seconds_total{cpu="%d",mode="%s"}`, core, mode)] += part * seconds
		}
	}
	m.host[`node_network_receive_bytes_total{device="eth0"}`] += 200_000 * busy * seconds
	m.host[`node_network_transmit_bytes_total{device="eth0"}`] += 900_000 * busy * seconds
	m.host[`node_network_receive_bytes_total{device="lo"}`] += 5e9 * seconds
	m.host[`node_disk_read_bytes_total{device="vda"}`] += 300_000 * busy * seconds
	m.host[`node_disk_written_bytes_total{device="vda"}`] += 700_000 * busy * seconds
}

// serve lets a site's counters go on.
func serve(site map[string]float64, seconds, busy float64) {
	requests := requestsPerSec * busy * seconds
	for status, part := range statusOf {
		site[`chom_site_requests_total{status="`+status+`"}`] += requests * part
	}
	for i, le := range bucketOf {
		site[`chom_site_request_seconds_bucket{le="`+strconv.FormatFloat(le, 'g', -1, 64)+`"}`] += requests * withinOf[i]
	}
	site[`chom_site_request_seconds_bucket{le="+Inf"}`] += requests
	site["chom_site_request_seconds_count"] += requests
	site["chom_site_request_seconds_sum"] += requests * secondsEach
	site["chom_site_sent_bytes_total"] += requests * bytesEach
	site["chom_site_cpu_seconds_total"] += busy * seconds / 4
}

// Sizes of a new fake site; of what it sends a part is what its visitors have left.
const (
	diskBytes     = 90_000_000
	diskFiles     = 3_600
	databaseBytes = 6_000_000
	keptOfSent    = 0.02
	sizeEvery     = time.Hour
)

// grow measures how large a site is, when that is too long ago.
func grow(site map[string]float64, typ string, now time.Time) {
	const measured = "chom_site_size_timestamp_seconds"
	if now.Sub(time.Unix(int64(site[measured]), 0)) < sizeEvery {
		return
	}
	kept := keptOfSent * site["chom_site_sent_bytes_total"]
	site[measured] = float64(now.Unix())
	site["chom_site_disk_bytes"] = math.Floor((diskBytes+kept)/4096) * 4096
	site["chom_site_files"] = math.Floor(diskFiles + kept/50_000)
	if typ != "static" {
		site["chom_site_database_bytes"] = math.Floor((databaseBytes+kept/4)/16384) * 16384
	}
}

func samplesOf(counters map[string]float64, site string) []*linkv1.Sample {
	var out []*linkv1.Sample
	for series, value := range counters {
		out = append(out, &linkv1.Sample{Series: series, Value: value, SiteId: site})
	}
	return out
}
