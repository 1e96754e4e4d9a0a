package link_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/link"
	"chom.dev/controlplane/pki"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	"chom.dev/proto/gen/chom/link/v1/linkv1connect"
)

// lines is a log that many write.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestWrongClock is I08 at the agents' door: a certificate that is not valid by our clock is refused, and whoever looks
// for the reason finds it; agents hear what time it is.
func TestWrongClock(t *testing.T) {
	var log lines
	w := newWorld(t, dbtest.SQLite(t), func(c *link.Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	h := w.enroll("web1")
	foreign, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	id := must(contract.ParseServerID(h.id))
	refused := func(a *pki.Authority, at time.Time) {
		t.Helper()
		csr, _, err := pki.ParseRequest(newCSR(t, h.key))
		if err != nil {
			t.Fatal(err)
		}
		client, end := dial(trust(h.roots, must(a.IssueAgent(id, csr, at)).DER, h.key))
		defer end()
		if _, err := linkv1connect.NewLinkServiceClient(client, "https://"+w.addr).Hello(context.Background(), &linkv1.HelloRequest{
			ProtocolVersion: 1, InstanceId: uuid.NewString(),
		}); err == nil {
			t.Errorf("a certificate of %s was let in", at)
		}
	}
	const year = 365 * 24 * time.Hour
	for _, off := range []time.Duration{-7*24*time.Hour - time.Minute, year} { // its root is as old as this test
		before := log.String()
		refused(w.authority, time.Now().Add(off))
		said := strings.TrimPrefix(log.String(), before)
		if !strings.Contains(said, "not valid at the time that this machine's clock shows") || !strings.Contains(said, h.id) {
			t.Errorf("of a certificate that is %s off the log says %q", off, said)
		}
	}
	before := log.String()
	refused(foreign, time.Now().Add(-year))
	if said := strings.TrimPrefix(log.String(), before); strings.Contains(said, "clock") {
		t.Errorf("anybody can write into the log: %s", said)
	}

	h.hello()
	if at := h.mustReport().GetServerTime().AsTime(); time.Since(at).Abs() > time.Minute {
		t.Errorf("the agent hears that it is %s", at)
	}
}
