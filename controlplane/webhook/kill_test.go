package webhook

import (
	"context"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/outbound/outboundtest"
	"chom.dev/controlplane/outbox"
	"chom.dev/controlplane/secret/secrettest"
)

// Variables of a process that calls webhooks until it is killed.
const (
	childDatabase = "CHOM_TEST_WEBHOOK_DATABASE"
	childNames    = "CHOM_TEST_WEBHOOK_NAMES"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(childDatabase); url != "" {
		if err := child(url, os.Getenv(childNames)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child is the calling half of chomd. It trusts the authority of SSL_CERT_FILE.
func child(url, names string) error {
	ctx := context.Background()
	d, err := db.Open(ctx, url)
	if err != nil {
		return err
	}
	d.SetSealKey([]byte("the key of this test"))
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	dialer := outbound.New(outbound.WithResolver(outboundtest.Resolver(names)), outbound.Allow(netip.MustParsePrefix("127.0.0.0/8")))
	o, err := outbox.Open(d, log, prometheus.NewRegistry())
	if err != nil {
		return err
	}
	o.Add(New(d, log, Config{Keys: secrettest.New(), Dialer: dialer}).Queue())
	return o.Run(ctx)
}

// TestKill kills the calling process right after the receiver took an event and before it could say so, again and again.
func TestKill(t *testing.T) {
	for engine, url := range map[string]func(testing.TB) string{"sqlite": dbtest.SQLiteURL, "postgres": dbtest.PostgresURL} {
		t.Run(engine, func(t *testing.T) {
			at := url(t)
			r := newReceiver(t)
			names, _ := outboundtest.Names(t, map[string][]string{"hooks.example.com": {"127.0.0.1"}})
			roots := filepath.Join(t.TempDir(), "ca.pem")
			must(t, os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}), 0o600))

			const events, kills = 40, 5
			open(t, at, func(d *db.DB) {
				w := newWorld(t, d, outbound.New())
				w.create(t, r.url)
				for n := range events {
					w.publish(t, SiteUpdated, fmt.Sprint("site", n))
				}
			})
			var mu sync.Mutex
			var running *exec.Cmd
			killed := 0
			r.answer = func(n int, _ http.ResponseWriter, _ *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				if n%7 == 0 && killed < kills {
					killed++
					_ = running.Process.Kill() // an error shows below: the process never ends
				}
			}
			for range kills {
				c := exec.Command(os.Args[0])
				c.Env = append(os.Environ(), childDatabase+"="+at, childNames+"="+names.Address, "SSL_CERT_FILE="+roots)
				c.Stderr = t.Output()
				mu.Lock()
				running = c
				must(t, c.Start())
				mu.Unlock()
				_ = c.Wait() // killed
				open(t, at, func(d *db.DB) {
					w := &world{db: d}
					if n := w.count(t, `SELECT COUNT(*) FROM outbox WHERE state = 'sending'`); n != 1 {
						t.Errorf("%d calls were under way when it was killed", n)
					}
					w.change(t, `UPDATE outbox SET due_at = 0 WHERE state = 'sending'`) // its lease is over
				})
			}
			open(t, at, func(d *db.DB) {
				w := &world{db: d, Webhooks: New(d, slog.New(slog.DiscardHandler), Config{Keys: secrettest.New(), Dialer: r.dialer(t)})}
				stop := w.run(t)
				for deadline := time.Now().Add(30 * time.Second); w.count(t, `SELECT COUNT(*) FROM outbox WHERE state <> 'sent'`) > 0; time.Sleep(10 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatal("not all events were sent")
					}
				}
				stop()
			})
			copies := map[string][]string{}
			for _, call := range r.got() {
				id := call.header.Get("Chom-Event-Id")
				copies[id] = append(copies[id], call.body)
			}
			doubles := 0
			for id, bodies := range copies {
				for _, double := range bodies[1:] {
					doubles++
					if double != bodies[0] {
						t.Errorf("event %s came as another one: %s", id, double)
					}
				}
			}
			if len(copies) != events || doubles != killed || killed != kills {
				t.Errorf("%d events, %d of them twice, after %d kills", len(copies), doubles, killed)
			}
		})
	}
}

// open opens a database for as long as fn runs: no other process has it.
func open(t *testing.T, url string, fn func(*db.DB)) {
	t.Helper()
	d, err := db.Open(t.Context(), url)
	must(t, err)
	d.SetSealKey([]byte("the key of this test"))
	fn(d)
	must(t, d.Close())
}
