package metrics

import (
	"bufio"
	"fmt"
	"os"
	command "os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fleet"
	"chom.dev/proto/contract"
)

// TestKill claims that a process that is killed has kept every report that it took in, and that the next one goes on with them.
func TestKill(t *testing.T) {
	if dir := os.Getenv("CHOM_METRICS_DIR"); dir != "" {
		victim(t, dir)
	}
	url, dir := dbtest.SQLiteURL(t), t.TempDir()
	d := dbtest.Open(t, url)
	server := addServer(t, d, "web1", fleet.Shared, contract.OrganizationID{})
	for round := range 3 {
		cmd := command.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "CHOM_METRICS_DIR="+dir, "CHOM_METRICS_DB="+url, "CHOM_METRICS_SERVER="+server.String(), "CHOM_METRICS_ROUND="+strconv.Itoa(round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		taken := 0 // reports that it has answered
		for lines := bufio.NewScanner(out); taken < 50 && lines.Scan(); {
			if n, err := strconv.Atoi(lines.Text()); err == nil {
				taken = n
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed, as it should be
		if taken < 50 {
			t.Fatalf("round %d ended after %d reports", round, taken)
		}
		left := filepath.Join(t.TempDir(), "left")
		if err := os.CopyFS(left, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		m := opened(t, d, Config{Dir: left})
		a, err := m.Query(t.Context(), OfPlatform(), fmt.Sprintf(`count_over_time(x{round="%d"}[3h])`, round), time.Now().Add(time.Hour))
		if err != nil || len(a.Series) != 1 || a.Series[0].Points[0].Value < float64(taken) {
			t.Errorf("round %d: of %d reports there is %+v, %v", round, taken, a, err)
		}
	}
	m := opened(t, d, Config{Dir: dir})
	a, err := m.Query(t.Context(), OfPlatform(), `count(last_over_time(x[3h]))`, time.Now().Add(time.Hour))
	if err != nil || len(a.Series) != 1 || a.Series[0].Points[0].Value != 3 {
		t.Errorf("after all rounds: %+v, %v", a, err)
	}
}

// victim takes reports in until it is killed, and says how many.
func victim(t *testing.T, dir string) {
	server, err := contract.ParseServerID(os.Getenv("CHOM_METRICS_SERVER"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := db.Open(t.Context(), os.Getenv("CHOM_METRICS_DB"))
	if err != nil {
		t.Fatal(err)
	}
	m := opened(t, d, Config{Dir: dir})
	// Not for ever: what is said of an hour to come would leave no room for the next round, which begins now.
	began := time.Now()
	for i := 1; i < 200; i++ {
		sample := Sample{fmt.Sprintf(`x{round=%q}`, os.Getenv("CHOM_METRICS_ROUND")), "", float64(i)}
		if err := m.Append(t.Context(), server, []Sample{sample}, began.Add(time.Duration(i)*15*time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Println(i)
	}
	select {}
}
