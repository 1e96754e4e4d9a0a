package db_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fault"
)

// TestCommitUnknown is case I06: the connection dies at COMMIT. Whether the
// server got it or not, the caller hears that nobody knows.
func TestCommitUnknown(t *testing.T) {
	for name, reaches := range map[string]bool{"before the server has it": false, "before its answer is back": true} {
		t.Run(name, func(t *testing.T) {
			direct := dbtest.PostgresURL(t)
			p := newProxy(t, direct)
			d, err := db.Open(t.Context(), p.url)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			hook, runs := false, 0
			put1 := func() error {
				return db.InTx(t.Context(), d, func(tx *db.Tx) error {
					runs++
					tx.AfterCommit(func() { hook = true })
					return put(t.Context(), tx, "a", "1")
				})
			}
			p.reaches = reaches
			p.cut.Store(true)
			err = put1()
			if !errors.Is(err, db.ErrCommitUnknown) || fault.KindOf(err) != fault.KindUnavailable {
				t.Errorf("got %v", err)
			}
			if hook || runs != 1 {
				t.Errorf("hook ran %v, the function ran %d times", hook, runs)
			}
			watcher := dbtest.Open(t, direct)
			if reaches {
				eventually(t, func() bool { return get(t, watcher, "a") == "1" })
			} else if v := get(t, watcher, "a"); v != "" {
				t.Errorf("committed %q", v)
			}
			p.cut.Store(false)
			if err := put1(); err != nil {
				t.Errorf("the next transaction: %v", err)
			}
		})
	}
	t.Run("a server that is gone is unavailable at once", func(t *testing.T) {
		p := newProxy(t, dbtest.PostgresURL(t))
		d, err := db.Open(t.Context(), p.url)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		p.stop()
		began := time.Now()
		for range 3 {
			err := db.InTx(t.Context(), d, func(tx *db.Tx) error { return put(t.Context(), tx, "a", "1") })
			if fault.KindOf(err) != fault.KindUnavailable {
				t.Errorf("got %v", err)
			}
		}
		if spent := time.Since(began); spent > 3*time.Second {
			t.Errorf("that took %s", spent)
		}
	})
}

// proxy stands between a database and its server and can cut a connection at
// the moment of COMMIT.
type proxy struct {
	url     string
	ln      net.Listener
	cut     atomic.Bool
	reaches bool // the server gets the COMMIT, only its answer is lost
	mu      sync.Mutex
	conns   []net.Conn
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln}
	server := u.Host
	u.Host = ln.Addr().String()
	p.url = u.String()
	var loops sync.WaitGroup
	loops.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", server)
			if err != nil {
				client.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, conn)
			p.mu.Unlock()
			loops.Go(func() { p.forward(client, conn) })
			loops.Go(func() {
				defer client.Close()
				_, _ = io.Copy(client, conn) // it ends when either side does
			})
		}
	})
	t.Cleanup(func() { p.stop(); loops.Wait() })
	return p
}

func (p *proxy) forward(client, server net.Conn) {
	defer server.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if p.cut.Load() && bytes.Contains(buf[:n], []byte("commit")) {
			client.Close()
			if !p.reaches {
				return
			}
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
			_, _ = server.Read(buf) // let it answer into the void
			return
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) stop() {
	p.ln.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}
