package backup

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chom.dev/agent/clock"
	"chom.dev/agent/identity"
	"chom.dev/agent/journal"
	"chom.dev/agent/link"
	"chom.dev/agent/link/linktest"
	"chom.dev/agent/task"
	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
)

// TestOverLink makes a backup over the link, whose connection breaks meanwhile.
func TestOverLink(t *testing.T) {
	w := newWorld(t, false)
	s := linktest.New(t)
	s.Repositories = func(_, site string) http.Handler {
		if site != w.site.ID.String() {
			return http.NotFoundHandler()
		}
		return w.repository
	}
	dir, log := t.TempDir(), slog.New(slog.NewTextHandler(t.Output(), nil))
	store, err := identity.NewStore(filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	text, _ := s.Token()
	token, err := identity.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	id, err := link.Enroll(t.Context(), store, s.Address, token, new(fleetv1.Facts), log)
	if err != nil {
		t.Fatal(err)
	}
	jrnl, err := journal.Open(filepath.Join(dir, "journal.db"), id.Server.String(), log)
	if err != nil {
		t.Fatal(err)
	}
	defer jrnl.Close()
	var now clock.Clock
	engine, err := task.New(task.Config{Server: id.Server, Journal: jrnl, Signers: id.Signers, Clock: &now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	l := link.New(link.Config{Address: s.Address, Identity: store, Tasks: engine, Clock: &now, Log: log,
		Facts: func(context.Context) *fleetv1.Facts { return new(fleetv1.Facts) }})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	w.broker = l
	w.restart()
	there := true
	for range 100 {
		if there, err = w.manager.Exists(t.Context(), w.site); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil || there {
		t.Fatalf("before: %v, %v", there, err)
	}
	w.init()
	random := make([]byte, 30<<20)
	rand.Read(random)
	if err := os.WriteFile(w.shell()+"/public/big", random, 0o644); err != nil {
		t.Fatal(err)
	}
	packs := 0
	w.repository.Fault = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/data/") {
			if packs++; packs == 2 {
				s.CutAll()
			}
		}
		return false
	}
	c, err := w.backup(t.Context())
	if err != nil || c.Files.Added < 30<<20 || packs < 3 {
		t.Fatalf("after %d packs: %+v, %v", packs, c, err)
	}
	if l := listingAt(t, w.server, w.site, linktest.RepositoryKey(w.site.ID.String()), c.Files.ID); l.Count() != 3 {
		t.Errorf("%d files are in it", l.Count())
	}
	key, err := os.ReadFile(w.path("keys", w.site.Handle.String(), "key"))
	if want := linktest.RepositoryKey(w.site.ID.String()); err != nil || string(bytes.TrimSpace(key)) != want {
		t.Errorf("the key on disk is another: %v", err)
	}
	if left := w.repository.Objects("locks"); len(left) != 0 {
		t.Errorf("locks are left: %v", left)
	}
}
