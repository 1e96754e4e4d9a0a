package limit_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/limit"
	"chom.dev/controlplane/limit/limittest"
)

var rates = limit.Rates{limit.Auth: 5, limit.API: 60, limit.Sensitive: 2}

// each runs a test with both places to count in.
func each(t *testing.T, test func(t *testing.T, l *limit.Limiter)) {
	t.Helper()
	t.Run("in memory", func(t *testing.T) { test(t, limit.New(rates)) })
	t.Run("in Redis", func(t *testing.T) { test(t, inRedis(t, limittest.Start(t).URL)) })
}

func inRedis(t *testing.T, url string) *limit.Limiter {
	t.Helper()
	l, err := limit.NewRedis(rates, url, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestTake(t *testing.T) {
	each(t, func(t *testing.T, l *limit.Limiter) {
		ctx := t.Context()
		t.Run("refuses what is above the rate", func(t *testing.T) {
			for class, rate := range rates {
				for i := range rate {
					if v := l.Take(ctx, class, "a"); !v.Allowed || v.Limit != rate || v.Remaining != rate-i-1 || v.Reset <= 0 || v.Reset > 64*time.Second {
						t.Fatalf("%s %d: %+v", class, i+1, v)
					}
				}
				for range 3 {
					if v := l.Take(ctx, class, "a"); v.Allowed || v.Remaining != 0 || v.Reset <= 0 || v.Reset > 64*time.Second {
						t.Errorf("%s %d: %+v", class, rate+1, v)
					}
				}
			}
		})
		t.Run("counts keys apart", func(t *testing.T) {
			if v := l.Take(ctx, limit.Sensitive, "b"); !v.Allowed || v.Remaining != 1 {
				t.Errorf("%+v", v)
			}
		})
		t.Run("refuses when one of several keys is full, and then counts none", func(t *testing.T) {
			if v := l.Take(ctx, limit.Sensitive, "c", "a"); v.Allowed {
				t.Errorf("%+v", v)
			}
			if v := l.Look(ctx, limit.Sensitive, "c"); v.Remaining != 2 {
				t.Errorf("%+v", v)
			}
		})
		t.Run("only looks when it is to look", func(t *testing.T) {
			for range 10 {
				if v := l.Look(ctx, limit.Auth, "d"); !v.Allowed || v.Remaining != 5 {
					t.Errorf("%+v", v)
				}
			}
		})
		t.Run("allows nothing of a class that it does not know", func(t *testing.T) {
			if v := l.Take(ctx, "other", "e"); v.Allowed {
				t.Errorf("%+v", v)
			}
		})
		t.Run("says how long to wait", func(t *testing.T) {
			err := l.Allow(ctx, "a", limit.Auth)
			f, ok := fault.Of(err)
			if !ok || f.Kind() != fault.KindLimited || f.RetryAfter() <= 0 {
				t.Errorf("got %v", err)
			}
			if err := l.Allow(ctx, "f", limit.Auth); err != nil {
				t.Errorf("got %v", err)
			}
		})
		t.Run("is exact when all come at once", func(t *testing.T) {
			var allowed atomic.Int64
			var all sync.WaitGroup
			for range 200 {
				all.Go(func() {
					if l.Take(ctx, limit.API, "g", "h").Allowed {
						allowed.Add(1)
					}
				})
			}
			all.Wait()
			if n := allowed.Load(); n != 60 {
				t.Errorf("%d were allowed", n)
			}
			if v := l.Look(ctx, limit.API, "g"); v.Remaining != 0 {
				t.Errorf("%+v", v)
			}
		})
	})
}

// TestMinute lives through minutes: there are never more than the rate in any 60 seconds, and all of it again after 64.
func TestMinute(t *testing.T) {
	for _, pace := range []time.Duration{100 * time.Millisecond, 900 * time.Millisecond, 1100 * time.Millisecond, 7 * time.Second, 13 * time.Second} {
		t.Run(pace.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := limit.New(rates)
				var allowed []time.Time
				for range int(10 * time.Minute / pace) {
					if l.Take(t.Context(), limit.Auth, "a").Allowed {
						allowed = append(allowed, time.Now())
					}
					time.Sleep(pace)
				}
				for i := 5; i < len(allowed); i++ {
					if gap := allowed[i].Sub(allowed[i-5]); gap < time.Minute {
						t.Errorf("six within %s", gap)
					}
				}
				if want := min(10*5*60/64-5, int(10*time.Minute/pace)); len(allowed) < want {
					t.Errorf("only %d were allowed, not %d", len(allowed), want)
				}
			})
		})
	}
	t.Run("waits no longer than it says", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := limit.New(rates)
			for range 5 {
				l.Take(t.Context(), limit.Auth, "a")
				time.Sleep(3 * time.Second)
			}
			for range 20 {
				v := l.Take(t.Context(), limit.Auth, "a")
				if v.Allowed {
					continue
				}
				time.Sleep(v.Reset - time.Millisecond)
				if l.Look(t.Context(), limit.Auth, "a").Allowed {
					t.Error("it was free before")
				}
				time.Sleep(time.Millisecond)
				if !l.Take(t.Context(), limit.Auth, "a").Allowed {
					t.Error("it was not free then")
				}
			}
		})
	})
}

// TestMany comes from everywhere at once: the space is bounded, and who has used up a limit stays refused.
func TestMany(t *testing.T) {
	l := limit.New(rates)
	for range 5 {
		l.Take(t.Context(), limit.Auth, "the guesser")
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 300_000 {
		l.Take(t.Context(), limit.Auth, fmt.Sprint("stranger ", i))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 {
		t.Errorf("it grew by %d MiB", grown>>20)
	}
	if l.Take(t.Context(), limit.Auth, "the guesser").Allowed {
		t.Error("the guesser was forgotten")
	}
}

// TestReplicas is about several processes with one Redis.
func TestReplicas(t *testing.T) {
	server := limittest.Start(t)
	a, b := inRedis(t, server.URL), inRedis(t, server.URL)
	ctx := context.Background()
	for i := range 60 {
		if v := []*limit.Limiter{a, b}[i%2].Take(ctx, limit.API, "somebody"); !v.Allowed {
			t.Fatalf("call %d: %+v", i+1, v)
		}
	}
	t.Run("the limit holds over both", func(t *testing.T) {
		if a.Take(ctx, limit.API, "somebody").Allowed || b.Take(ctx, limit.API, "somebody").Allowed {
			t.Error("the 61st call was allowed")
		}
	})
	t.Run("the limit holds after a restart", func(t *testing.T) {
		if inRedis(t, server.URL).Take(ctx, limit.API, "somebody").Allowed {
			t.Error("the 61st call was allowed")
		}
	})
	t.Run("without Redis each counts alone, and quickly", func(t *testing.T) {
		server.Stop()
		for _, l := range []*limit.Limiter{a, b} {
			began := time.Now()
			for i := range 6 {
				if v := l.Take(ctx, limit.Auth, "a guesser"); v.Allowed != (i < 5) {
					t.Errorf("guess %d: %+v", i+1, v)
				}
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("six calls took %s", took)
			}
		}
	})
	t.Run("they find each other again", func(t *testing.T) {
		server.Again(t)
		deadline := time.Now().Add(20 * time.Second)
		for i := 0; ; i++ {
			key := fmt.Sprint("try ", i)
			a.Take(ctx, limit.Sensitive, key)
			b.Take(ctx, limit.Sensitive, key)
			if !a.Take(ctx, limit.Sensitive, key).Allowed {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("each still counts alone")
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
}

func TestURL(t *testing.T) {
	const secret = "hunter2"
	if _, err := limit.NewRedis(rates, "redis://:hunter2@bad host", slog.Default()); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkTake(b *testing.B) {
	b.Run("memory", func(b *testing.B) {
		l := limit.New(limit.Rates{limit.API: 1 << 30})
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				l.Take(b.Context(), limit.API, "account 1", "token 1")
			}
		})
	})
	b.Run("redis", func(b *testing.B) {
		l, err := limit.NewRedis(limit.Rates{limit.API: 1 << 30}, limittest.Start(b).URL, slog.Default())
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		for b.Loop() {
			l.Take(b.Context(), limit.API, "account 1", "token 1")
		}
	})
}
