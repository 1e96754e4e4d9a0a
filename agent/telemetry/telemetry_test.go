package telemetry

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
)

func TestMetrics(t *testing.T) {
	m, err := NewMetrics(slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, s := range m.Gather(t.Context()) {
		if _, twice := got[s.Series]; twice {
			t.Errorf("series %s comes twice", s.Series)
		}
		if len(s.Series) > maxSeries {
			t.Errorf("series %s is longer than may be sent", s.Series)
		}
		got[s.Series] = s.Value
	}
	for _, want := range []string{
		"node_load1", "node_memory_MemTotal_bytes", "node_time_seconds", "node_boot_time_seconds",
		`node_cpu_seconds_total{cpu="0",mode="idle"}`, `node_filesystem_size_bytes{`, "node_network_receive_bytes_total{",
		"node_uname_info{",
	} {
		t.Run("measures "+want, func(t *testing.T) {
			for series := range got {
				if strings.HasPrefix(series, want) {
					return
				}
			}
			t.Errorf("no such series among %d", len(got))
		})
	}
}

func TestName(t *testing.T) {
	label := func(k, v string) *dto.LabelPair { return &dto.LabelPair{Name: proto.String(k), Value: proto.String(v)} }
	for _, c := range []struct {
		claim  string
		labels []*dto.LabelPair
		want   string
	}{
		{"is bare without labels", nil, "m"},
		{"sorts labels", []*dto.LabelPair{label("b", "2"), label("a", "1")}, `m{a="1",b="2"}`},
		{"keeps hostile values inside their quotes", []*dto.LabelPair{label("a", "x\"}\n\\\xff")}, `m{a="x\"}\n\\?"}`},
	} {
		t.Run(c.claim, func(t *testing.T) {
			if got := name("m", c.labels); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestFacts(t *testing.T) {
	asked := 0
	h := NewHost("1.2.3\n", filepath.Join(t.TempDir(), "not", "there"), func(context.Context) Software {
		asked++
		return Software{PHP: "8.2", Findings: []string{strings.Repeat("é", 400)}}
	}, slog.New(slog.DiscardHandler))
	f := h.Facts(t.Context())
	t.Run("names host, processor, memory and disk", func(t *testing.T) {
		if f.Hostname == "" || f.Arch == "" || f.Kernel == "" || f.CpuCount == 0 || f.MemoryBytes == 0 || f.DiskBytes < f.DiskFreeBytes || f.DiskBytes == 0 {
			t.Errorf("facts are incomplete: %v", f)
		}
	})
	t.Run("keeps texts within what may be sent", func(t *testing.T) {
		if f.AgentVersion != "1.2.3 " || len(f.Findings[0]) != 512 {
			t.Errorf("version %q, finding of %d bytes", f.AgentVersion, len(f.Findings[0]))
		}
	})
	t.Run("asks about the software once a minute, or when told that it changed", func(t *testing.T) {
		h.Facts(t.Context())
		if asked != 1 {
			t.Fatalf("asked %d times", asked)
		}
		h.Forget()
		if h.Facts(t.Context()); asked != 2 {
			t.Fatalf("asked %d times", asked)
		}
	})
}

func TestOSRelease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "os-release")
	if err := os.WriteFile(path, []byte("PRETTY_NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := osRelease(path); got != "debian 12" {
		t.Errorf("got %q", got)
	}
}

func TestMachineHint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine-id")
	if err := os.WriteFile(path, []byte("0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := machineHint(path); len(got) != 16 || strings.Contains("0123456789abcdef0123456789abcdef", got) {
		t.Errorf("got %q", got)
	}
}
