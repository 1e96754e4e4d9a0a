// Package dashboard walks the dashboard as a person does who begins with CHOM: a browser, a host of the lab, a CA, a name server,
// mails. The walk itself is controlplane/web/src/lab.walk.ts; what it does outside of its browser is done here.
package dashboard

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
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
	hands := httptest.NewServer(hands{r, h}.handler(map[string]string{
		"baseUrl": r.URL(), "setupSecret": r.SetupSecret, "mails": mails, "address": h.Addr().String(), "home": trusting(t, r.CA.Roots),
	}))
	t.Cleanup(hands.Close)
	walk(ctx, t, tree, hands.URL)
}

// hands do what a person does beside the browser.
type hands struct {
	rig  *rig.Rig
	host *lab.Host
}

// handler tells the walk where it is, types a line into the host's shell, and sets records of the zone.
func (h hands) handler(place map[string]string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(place) // a walk that went away has failed
	})
	mux.HandleFunc("POST /paste", func(w http.ResponseWriter, req *http.Request) {
		line, err := io.ReadAll(req.Body)
		if err == nil {
			err = h.rig.Paste(req.Context(), h.host, string(line), nil)
		}
		answer(w, err)
	})
	mux.HandleFunc("POST /dns", func(w http.ResponseWriter, req *http.Request) {
		var record struct{ Name, Type, Value string }
		err := json.NewDecoder(req.Body).Decode(&record)
		if err == nil {
			err = h.rig.DNS.Set(req.Context(), record.Name, record.Type, record.Value)
		}
		answer(w, err)
	})
	return mux
}

func answer(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// trusting is a home in which Chromium takes some roots for good.
func trusting(t *testing.T, roots []byte) string {
	t.Helper()
	home := t.TempDir()
	store := filepath.Join(home, ".pki/nssdb")
	if err := os.MkdirAll(store, 0o700); err != nil {
		t.Fatal(err)
	}
	certutil := func(input []byte, args ...string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), "certutil", append(args, "-d", "sql:"+store)...)
		c.Stdin = bytes.NewReader(input)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("certutil %s: %v: %s", args, err, out)
		}
	}
	certutil(nil, "-N", "--empty-password")
	for n := 0; ; n++ { // it reads one only
		var root *pem.Block
		if root, roots = pem.Decode(roots); root == nil {
			return home
		}
		certutil(root.Bytes, "-A", "-n", fmt.Sprintf("root %d", n), "-t", "C,,")
	}
}

// walk runs the walk; each of its tests is one here.
func walk(ctx context.Context, t *testing.T, tree, hands string) {
	t.Helper()
	report := filepath.Join(t.TempDir(), "report.json")
	failed := rig.Walk(ctx, tree, "lab", []string{"LAB=" + hands}, t.Output(), "--reporter=default", "--reporter=json", "--outputFile="+report)
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("the walk did not run to its end: %v", failed)
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
	walked := 0
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
	if failed != nil || walked == 0 {
		t.Errorf("%d steps walked: %v", walked, failed)
	}
}
