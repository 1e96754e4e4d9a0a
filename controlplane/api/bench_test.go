package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"chom.dev/proto/gen/chom/site/v1/sitev1connect"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/rest"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

// benchWorld is a world whose first organization has a thousand sites more, and its door without a network.
func benchWorld(b *testing.B, d *db.DB) (*world, http.Handler) {
	b.Helper()
	w := newWorld(b, d)
	organization, err := contract.ParseOrganizationID(w.ours.organization)
	must(b, err)
	for i := range 1000 {
		_, _, err := w.config.Sites.Create(b.Context(), site.Request{Organization: organization, Name: fmt.Sprintf("s%d", i), Type: "static", Domains: []string{fmt.Sprintf("s%d.example.com", i)}})
		must(b, err)
	}
	c := w.config
	c.Metrics, c.Log = prometheus.NewRegistry(), slog.New(slog.NewJSONHandler(io.Discard, nil))
	handler, err := New(c)
	must(b, err)
	return w, handler
}

func engines(b *testing.B, bench func(b *testing.B, d *db.DB)) {
	b.Run("sqlite", func(b *testing.B) { bench(b, dbtest.SQLite(b)) })
	b.Run("postgres", func(b *testing.B) { bench(b, dbtest.Postgres(b)) })
}

// get repeats a call in all cores.
func get(b *testing.B, handler http.Handler, path, token string) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer() // the world is there
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			request := httptest.NewRequestWithContext(b.Context(), http.MethodGet, path, nil)
			prove(request.Header, token)
			recorder := httptest.NewRecorder()
			handler.ServeHTTP(recorder, request)
			if recorder.Code != http.StatusOK {
				b.Errorf("%d %s", recorder.Code, recorder.Body)
				return
			}
		}
	})
}

// BenchmarkList is a page of 50 of 1,000 sites by REST.
func BenchmarkList(b *testing.B) {
	engines(b, func(b *testing.B, d *db.DB) {
		w, handler := benchWorld(b, d)
		get(b, handler, "/api/v1/sites?organization_id="+w.ours.organization, w.ours.owner)
	})
}

// BenchmarkDoor is what a call costs beside its noun: the same handler bare, and behind the whole door.
func BenchmarkDoor(b *testing.B) {
	engines(b, func(b *testing.B, d *db.DB) {
		w, handler := benchWorld(b, d)
		path := "/api/v1/organizations/" + w.ours.organization + "/sites/" + w.ours.site
		b.Run("bare", func(b *testing.B) {
			router, err := rest.New(methods())
			must(b, err)
			mux := http.NewServeMux()
			mux.Handle(sitev1connect.NewSiteServiceHandler(&siteService{w.config.Sites, w.config.Logs}, restCodec))
			get(b, withReach(router.Handler(mux)), path, "")
		})
		b.Run("door", func(b *testing.B) { get(b, handler, path, w.ours.owner) })
	})
}

// withReach is what a handler needs of the door: whose call it is.
func withReach(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, &call{})))
	})
}

var restCodec = connect.WithCodec(rest.Codec{})
