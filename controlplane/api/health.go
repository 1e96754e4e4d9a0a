package api

import (
	"context"
	"io"
	"net/http"
	"time"

	"connectrpc.com/grpchealth"
)

// Ready says whether the control plane can serve: nil, or why not, in words for an operator's monitoring.
type Ready func(ctx context.Context) error

const readyTimeout = 3 * time.Second // a monitor asks every few seconds

// mountHealth serves /healthz (the process lives) and /readyz (it can serve: database, schema). Both are for anybody, so
// the reason of a failure stays in the log.
func mountHealth(mux *http.ServeMux, d *door, ready Ready) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, "ok\n") // a reader who went away needs no answer
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := ready(ctx); err != nil {
			d.log.WarnContext(ctx, "not ready", "err", withCause(err))
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, "not ready\n")
			return
		}
		_, _ = io.WriteString(w, "ready\n")
	})
}

// health answers grpc.health.v1 from the same question.
type health struct{ ready Ready }

// Check implements grpchealth.Checker.
func (h health) Check(ctx context.Context, request *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if h.ready(ctx) != nil {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}
