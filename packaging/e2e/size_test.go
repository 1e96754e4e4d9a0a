package e2e

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	metricv1 "chom.dev/proto/gen/chom/metric/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// TestSize compares what is said of a site's disk with what du(1) says on its host.
func TestSize(t *testing.T) {
	onBoth(t, func(t *testing.T, h *host) {
		s, plain := create(t, h, "wordpress"), create(t, h, "static")
		fill := strings.NewReplacer("PUBLIC", public(s), "H", s.GetHandle()).Replace(`set -e; cd PUBLIC/../private
head -c 30000000 /dev/urandom > large; ln large PUBLIC/again; ln large third
truncate -s 1T PUBLIC/hole
ln -s / PUBLIC/all; ln -s .. PUBLIC/up
mkdir PUBLIC/shut; head -c 2000000 /dev/urandom > PUBLIC/shut/f; chmod 0 PUBLIC/shut
mariadb sH -e "CREATE TABLE large (x LONGBLOB); INSERT INTO large SELECT RANDOM_BYTES(1000) FROM seq_1_to_20000"`)
		if res := as(t, h, s, fill); res.Code != 0 {
			t.Fatal(res.Stderr)
		}
		filled := time.Now()
		for _, site := range []*sitev1.Site{s, plain} { // an order of the site has it measured soon
			updated, err := world.rig.Sites.UpdateSite(timeout(t, time.Minute), &sitev1.UpdateSiteRequest{
				OrganizationId: site.GetOrganizationId(), SiteId: site.GetId(), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"limits"}}, Limits: &sitev1.Limits{PhpWorkers: 3},
			})
			if err != nil {
				t.Fatal(err)
			}
			done(t, timeout(t, time.Minute), updated.GetTask())
		}
		got := awaitSize(t, s, filled)
		near := func(what string, got, want, by float64) {
			t.Helper()
			t.Logf("%s: measured %.0f, on the host %.0f", what, got, want)
			if got == 0 || math.Abs(got-want) > by {
				t.Errorf("%s is %.0f, measured %.0f", what, want, got)
			}
		}
		shut := du(t, h, public(s)+"/shut") - 4096 // root sees what its owner shut himself out of
		near("files", got["chom_site_disk_bytes"], du(t, h, public(s)+" "+public(s)+"/../private")-shut, 1<<20)
		count, err := strconv.ParseFloat(strings.TrimSpace(sh(t, h, "find "+public(s)+" "+public(s)+"/../private -printf '%i\n' | sort -u | wc -l")), 64)
		if err != nil {
			t.Fatal(err)
		}
		near("how many there are", got["chom_site_files"], count-1, 30)
		near("the database", got["chom_site_database_bytes"], du(t, h, "/var/lib/mysql/s"+s.GetHandle()), 1<<20)

		got = awaitSize(t, plain, filled)
		near("files of a static site", got["chom_site_disk_bytes"], du(t, h, public(plain)+" "+public(plain)+"/../private"), 1<<16)
		if n, there := got["chom_site_database_bytes"]; there {
			t.Errorf("a site without a database has one of %.0f bytes", n)
		}

		// A tenant's tables are where they are measured.
		elsewhere := as(t, h, s, "mariadb s"+s.GetHandle()+" -e \"CREATE TABLE far (x INT) DATA DIRECTORY='/var/tmp'\"")
		if left := sh(t, h, "ls -d /var/tmp/s"+s.GetHandle()+" 2>/dev/null; true"); left != "" {
			t.Errorf("a table is elsewhere: %s %s", left, elsewhere.Stderr)
		}
		if left := sh(t, h, "systemctl list-units --all --plain --no-legend 'chom-run-"+s.GetHandle()+"-size*'"); left != "" {
			t.Errorf("left: %s", left)
		}
		purge(t, h, plain)
		purge(t, h, s)
	})
}

// awaitSize waits for what was measured of a site after a moment.
func awaitSize(t *testing.T, s *sitev1.Site, after time.Time) map[string]float64 {
	t.Helper()
	began := time.Now()
	for {
		res, err := world.rig.Metrics.Query(timeout(t, 5*time.Second), &metricv1.QueryRequest{
			OrganizationId: s.GetOrganizationId(), Query: fmt.Sprintf(`{__name__=~"chom_site_(disk_bytes|files|database_bytes|size_timestamp_seconds)",site=%q}`, s.GetId()),
		})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, sample := range res.GetVector().GetSamples() {
			got[sample.GetLabels()["__name__"]] = sample.GetPoint().GetValue()
		}
		if at := got["chom_site_size_timestamp_seconds"]; at >= float64(after.Unix()) {
			t.Logf("measured %s after it was filled, known after %s", time.Unix(int64(at), 0).Sub(after).Round(time.Second), time.Since(after).Round(time.Second))
			return got
		}
		if time.Since(began) > 6*time.Minute { // the host has others, and time to spare is what is used
			t.Fatalf("it was not measured; known is %v", got)
		}
		time.Sleep(time.Second)
	}
}

// du is what some paths take of the host's disk.
func du(t *testing.T, h *host, paths string) float64 {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(sh(t, h, "du -s -c -B1 "+paths)), "\n")
	n, err := strconv.ParseFloat(strings.Fields(lines[len(lines)-1])[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
