// Package dashboard walks the dashboard as a person does who begins with CHOM: a browser, a host of the lab, a CA, a name server,
// mails. The walk itself is controlplane/web/src/lab.walk.ts.
package dashboard

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/lab/labtest"
	"chom.dev/packaging/rig"
)

const within = 8 * time.Minute // on a crowded machine

func TestDashboard(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	archive, err := lab.EnsureWordPress(ctx, lab.Bookworm, log)
	if err != nil {
		t.Fatal(err)
	}
	l := labtest.New(t)
	h := labtest.Boot(t, l, lab.Config{Name: "vps1", Base: labtest.Base(t, lab.Bookworm, lab.Stack)})
	tree, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	mails := t.TempDir()
	r, err := rig.Start(ctx, rig.Options{
		Lab: l, Dir: t.TempDir(), Bin: filepath.Join(tree, "bin-failpoint"), Packages: filepath.Join(tree, "dist-failpoint"),
		Archive: &archive, Names: true, Unclaimed: true, Args: []string{"--mail-dir", mails}, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("chomd's last words:\n%s", r.Tail(40))
		}
		if err := r.Stop(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	walk := rig.LabWalk{Rig: r, Host: h, Mails: mails, Home: t.TempDir()}
	report := filepath.Join(t.TempDir(), "report.json")
	failed := walk.Run(ctx, tree, t.Output(), "--reporter=default", "--reporter=json", "--outputFile="+report)
	if walked := tell(t, report); failed != nil || walked == 0 {
		t.Errorf("%d steps walked: %v", walked, failed)
	}
	t.Logf("%d clicks and %.0f s from an empty account to a WordPress by HTTPS", walk.Clicks, walk.Seconds)
}

// tell makes a test of each of the walk's, and gives how many there are.
func tell(t *testing.T, report string) (walked int) {
	t.Helper()
	text, err := os.ReadFile(report)
	if err != nil {
		t.Errorf("the walk did not come to its end: %v", err)
		return 0
	}
	var said struct {
		TestResults []struct {
			AssertionResults []struct {
				Title, Status   string
				FailureMessages []string
			}
		}
	}
	if err := json.Unmarshal(text, &said); err != nil {
		t.Fatal(err)
	}
	for _, file := range said.TestResults {
		for _, test := range file.AssertionResults {
			walked++
			t.Run(test.Title, func(t *testing.T) {
				if test.Status != "passed" {
					t.Errorf("%s: %s", test.Status, test.FailureMessages)
				}
			})
		}
	}
	return walked
}
