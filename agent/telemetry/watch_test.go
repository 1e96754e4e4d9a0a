package telemetry

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatchTellsOnceWhenTheSoftwareIsComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks, told atomic.Int32
		booted := time.Now().Add(10 * time.Second) // databases take their time
		h := NewHost("1", "/", func(context.Context) Software {
			looks.Add(1)
			return Software{Prepared: time.Now().After(booted)}
		}, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = h.Watch(ctx, func() { told.Add(1) }) }()
		if h.Facts(ctx).GetPrepared() {
			t.Fatal("prepared before it is")
		}
		time.Sleep(15 * time.Second)
		if told.Load() != 1 || !h.Facts(ctx).GetPrepared() {
			t.Errorf("told %d times, prepared is %v", told.Load(), h.Facts(ctx).GetPrepared())
		}
		before := looks.Load()
		time.Sleep(50 * time.Second)
		if looks.Load() != before || told.Load() != 1 {
			t.Errorf("it goes on looking (%d more times) at what is complete", looks.Load()-before)
		}
	})
}
