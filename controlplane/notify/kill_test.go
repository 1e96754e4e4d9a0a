package notify

import (
	"context"
	"fmt"
	"log/slog"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/outbox"
	"chom.dev/controlplane/secret/secrettest"
)

// Variables of a process that sends mails until it is killed.
const (
	childDatabase = "CHOM_TEST_MAIL_DATABASE"
	childServer   = "CHOM_TEST_MAIL_SERVER"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(childDatabase); url != "" {
		if err := child(url, os.Getenv(childServer)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child is the sending half of chomd. It trusts the authority of SSL_CERT_FILE.
func child(url, server string) error {
	ctx := context.Background()
	d, err := db.Open(ctx, url)
	if err != nil {
		return err
	}
	sender, err := NewSMTP(Server{Address: server, Encryption: StartTLS, HELO: "child.example"})
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	mails, err := New(d, secrettest.New(), log, prometheus.NewRegistry(), Config{From: from, PublicURL: publicURL, Sender: sender})
	if err != nil {
		return err
	}
	o, err := outbox.Open(d, log, prometheus.NewRegistry())
	if err != nil {
		return err
	}
	o.Add(mails.Queue())
	return o.Run(ctx)
}

// TestKill kills the sending process right after the server took a mail and before it could say so, again and again.
func TestKill(t *testing.T) {
	for engine, url := range map[string]func(testing.TB) string{"sqlite": dbtest.SQLiteURL, "postgres": dbtest.PostgresURL} {
		t.Run(engine, func(t *testing.T) {
			at := url(t)
			k := newSink(t, false)
			roots := filepath.Join(t.TempDir(), "ca.pem")
			must(t, os.WriteFile(roots, k.ca, 0o600))

			const mails, kills = 40, 5
			var ids []string
			open(t, at, func(d *db.DB) {
				m := newMails(t, d, nil)
				for n := range mails {
					ids = append(ids, ask(t, d, m, fmt.Sprintf("user%d@example.com", n), TemplateResetPassword))
				}
			})
			var mu sync.Mutex
			var running *exec.Cmd
			killed := 0
			k.onTaken = func(n int) {
				mu.Lock()
				defer mu.Unlock()
				if n%7 == 0 && killed < kills {
					killed++
					_ = running.Process.Kill() // it may be dead already, by the mail on another connection
				}
			}
			for range kills {
				c := exec.Command(os.Args[0])
				c.Env = append(os.Environ(), childDatabase+"="+at, childServer+"="+k.address, "SSL_CERT_FILE="+roots)
				c.Stderr = t.Output()
				mu.Lock()
				running = c
				must(t, c.Start())
				mu.Unlock()
				_ = c.Wait() // killed
				open(t, at, func(d *db.DB) {
					if n := count1(t, d, `SELECT COUNT(*) FROM outbox WHERE state = 'sending'`); n == 0 {
						t.Error("nothing was under way when it was killed")
					}
					change(t, d, `UPDATE outbox SET due_at = 0 WHERE state = 'sending'`) // its lease is over
				})
			}
			open(t, at, func(d *db.DB) {
				m := newMails(t, d, k.sender(t, StartTLS))
				o, err := outbox.Open(d, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
				must(t, err)
				o.Add(m.Queue())
				ctx, stop := context.WithTimeout(t.Context(), time.Minute)
				var loop sync.WaitGroup
				loop.Go(func() { _ = o.Run(ctx) })
				for _, id := range ids {
					ends(t, m, id, outbox.Sent)
				}
				stop()
				loop.Wait()
			})
			copies := map[string][]*mail.Message{}
			for _, got := range k.got() {
				id := got.Header.Get("Message-Id")
				copies[id] = append(copies[id], got)
			}
			doubles := 0
			for _, id := range ids {
				all := copies["<"+id+"@example.com>"]
				if len(all) == 0 {
					t.Errorf("mail %s is lost", id)
				}
				for _, double := range all[min(1, len(all)):] {
					doubles++
					if double.Header.Get("Date") != all[0].Header.Get("Date") || double.Header.Get("To") != all[0].Header.Get("To") {
						t.Errorf("mail %s came as another one: %v", id, double.Header)
					}
				}
			}
			if len(copies) != mails || doubles == 0 {
				t.Errorf("%d mails, %d doubles: %d kills were for nothing", len(copies), doubles, killed)
			}
			t.Logf("%d kills, %d mails, %d of them twice", killed, mails, doubles)
		})
	}
}

// open opens a database for as long as fn runs: no other process has it.
func open(t *testing.T, url string, fn func(*db.DB)) {
	t.Helper()
	d, err := db.Open(t.Context(), url)
	must(t, err)
	fn(d)
	must(t, d.Close())
}
