package db_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"chom.dev/controlplane/db"
)

type ear struct {
	mu    sync.Mutex
	heard map[[2]string]int
}

func (e *ear) count(topic, payload string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.heard[[2]string{topic, payload}]
}

// listen listens until the test ends.
func listen(t *testing.T, d *db.DB) *ear {
	t.Helper()
	e := &ear{heard: map[[2]string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		err := d.Listen(ctx, func(topic, payload string) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.heard[[2]string{topic, payload}]++
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("listen: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	eventually(t, func() bool {
		d.Notify("ready", "")
		return e.count("ready", "") > 0
	})
	return e
}

// wiretap holds what processes say to each other.
type wiretap struct {
	mu   sync.Mutex
	said []string
}

func (w *wiretap) all() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.said, "\n")
}

// tap hears it until the test ends.
func tap(t *testing.T, url string) *wiretap {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "LISTEN chom"); err != nil {
		t.Fatal(err)
	}
	w := &wiretap{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer conn.Close(context.Background())
		for {
			n, err := conn.WaitForNotification(ctx)
			if err != nil {
				return
			}
			w.mu.Lock()
			w.said = append(w.said, n.Payload)
			w.mu.Unlock()
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return w
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("did not happen within 10 s")
		}
	}
}

// killSessions cuts every connection to the database of url.
func killSessions(t *testing.T, url string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	if err != nil {
		t.Fatal(err)
	}
}

func runtimeGoexit() { runtime.Goexit() }
