package metrics

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fleet"
	"chom.dev/proto/contract"
)

// fleetOf is a world whose history has minutes of reports of servers with 300 series each, which end now.
func fleetOf(b *testing.B, servers, minutes int) (*Metrics, []contract.ServerID, time.Time) {
	b.Helper()
	d := dbtest.SQLite(b)
	m := opened(b, d, Config{Dir: b.TempDir()})
	ids := make([]contract.ServerID, servers)
	for i := range ids {
		ids[i] = addServer(b, d, fmt.Sprint("s", i), fleet.Shared, contract.OrganizationID{})
	}
	now := time.Now()
	for i := range minutes {
		for _, id := range ids {
			m.takeIn(b, id, now.Add(time.Duration(i-minutes+1)*time.Minute), i)
		}
	}
	return m, ids, now
}

// takeIn is a report of 300 series, which grow.
func (m *Metrics) takeIn(b *testing.B, server contract.ServerID, at time.Time, n int) {
	b.Helper()
	samples := make([]Sample, 300)
	for i := range samples {
		samples[i] = Sample{fmt.Sprintf(`node_x%d_total{device="sda%d",mode="idle"}`, i%50, i), "", float64(n * i)}
	}
	if err := m.Append(b.Context(), server, samples, at); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkAppend is how long a report of 300 samples takes, of one of 1,000 servers.
func BenchmarkAppend(b *testing.B) {
	m, ids, now := fleetOf(b, 1000, 1)
	n := 0
	for b.Loop() {
		n++
		m.takeIn(b, ids[n%len(ids)], now.Add(time.Duration(1+n/len(ids))*time.Minute), n)
	}
	b.ReportMetric(300*float64(n)/b.Elapsed().Seconds(), "samples/s")
	b.ReportMetric(float64(resident(b))/(1<<20), "MiB")
}

// BenchmarkDay is a graph of a day in 5 minutes' steps, of one server of 100.
func BenchmarkDay(b *testing.B) {
	m, ids, now := fleetOf(b, 100, 60)
	for i := range 24 * 60 {
		m.takeIn(b, ids[0], now.Add(time.Duration(i+1)*time.Minute), 60+i)
	}
	now = now.Add(24 * time.Hour)
	query := fmt.Sprintf(`sum by (server) (rate(node_x7_total{server=%q}[5m]))`, ids[0])
	for b.Loop() {
		if a, err := m.QueryRange(b.Context(), OfPlatform(), query, now.Add(-24*time.Hour), now, 5*time.Minute); err != nil || len(a.Series) != 1 {
			b.Fatal(a, err)
		}
	}
	b.ReportMetric(float64(resident(b))/(1<<20), "MiB")
}

// resident is the memory of this process, in bytes.
func resident(b *testing.B) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
