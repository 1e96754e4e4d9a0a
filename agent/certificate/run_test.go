package certificate

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"chom.dev/agent/clock"
	"chom.dev/agent/task"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// authority is an issuer that nobody asks: obtain is the test's.
var authority = &linkv1.Issuance{Issuers: []*linkv1.Issuer{{Name: "test", DirectoryUrl: "https://ca.invalid/dir"}}}

func TestRun(t *testing.T) {
	t.Run("renews 500 sites while the control plane is away, spread, and reloads nginx at most once in 5 s", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			const sites, life = 500, 2 * day
			ca, w := newSigner(t), newWorld(t, nil)
			must(t, w.SetIssuance(authority))
			for i := range sites {
				name := fmt.Sprintf("www%d.example.com", i)
				s := w.have(i, byHTTP(name), name)
				w.put(s, name, ca.bundle(t, acmeCA, life, name))
			}
			start := time.Now()
			var mu sync.Mutex
			var orders []time.Time
			var under, most atomic.Int32
			// A fake CA: a real one does not live in a bubble. It takes three seconds.
			w.obtain = func(_ context.Context, want want, old *bundle) (*bundle, error) {
				most.Store(max(most.Load(), under.Add(1)))
				defer under.Add(-1)
				if old == nil {
					t.Errorf("%s has lost its certificate", want.name)
				}
				mu.Lock()
				orders = append(orders, time.Now())
				mu.Unlock()
				time.Sleep(3 * time.Second)
				return ca.bundle(t, acmeCA, life, want.name.String()), nil
			}
			time.Sleep(life * 59 / 100)
			w.runs()
			time.Sleep(life * 10 / 100)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(orders) != sites {
				t.Fatalf("%d orders for %d sites", len(orders), sites)
			}
			perHour := map[int]int{}
			for _, at := range orders {
				perHour[int(at.Sub(start)/time.Hour)]++
			}
			for hour, n := range perHour {
				if n > sites*2/3 {
					t.Errorf("%d of %d renewals in hour %d", n, sites, hour)
				}
			}
			if most.Load() > atOnce {
				t.Errorf("%d orders at once", most.Load())
			}
			seen := map[contract.SiteID]bool{}
			calls := w.calls()
			for i, call := range calls {
				if i > 0 && call.at.Sub(calls[i-1].at) < serveRest {
					t.Fatalf("Serve is called %s after the last", call.at.Sub(calls[i-1].at))
				}
				for _, id := range call.sites {
					seen[id] = true
				}
			}
			if len(seen) != sites {
				t.Errorf("%d sites were served anew", len(seen))
			}
		})
	})
	t.Run("serves the first at once and the rest together, and again when it failed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ca, w := newSigner(t), newWorld(t, nil)
			must(t, w.SetIssuance(authority))
			for i := range 40 {
				name := fmt.Sprintf("www%d.example.com", i)
				w.have(i, byHTTP(name), name)
			}
			w.fails = 1
			w.obtain = func(_ context.Context, want want, _ *bundle) (*bundle, error) {
				time.Sleep(100 * time.Millisecond)
				return ca.bundle(t, acmeCA, 90*day, want.name.String()), nil
			}
			start := time.Now()
			w.runs()
			time.Sleep(time.Minute)
			synctest.Wait()
			calls := w.calls()
			if len(calls) != 2 || calls[0].at.Sub(start) > 2*time.Second || len(calls[1].sites) != 40 {
				for _, call := range calls {
					t.Errorf("after %s: %d sites", call.at.Sub(start), len(call.sites))
				}
			}
			for i := range 40 {
				if r := w.record(key{newSite(t, i, nil).Handle, domain(t, fmt.Sprintf("www%d.example.com", i))}); r.Unserved {
					t.Fatal("it is not noted that it is served")
				}
			}
		})
	})
	t.Run("tells nginx after a restart of what was stored right before", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ca, w := newSigner(t), newWorld(t, nil)
			s := w.have(1, byHTTP("a.example.com"), "a.example.com")
			must(t, w.store(key{s.Handle, domain(t, "a.example.com")}, s.ID, ca.bundle(t, acmeCA, 90*day, "a.example.com"), func() bool { return true }))
			w.again(nil) // died before Serve
			w.runs()
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if calls := w.calls(); len(calls) != 1 || calls[0].sites[0] != s.ID {
				t.Errorf("calls: %v", calls)
			}
		})
	})
	t.Run("tells nginx again of a site that was not taken into use, alone, less and less often", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ca, w := newSigner(t), newWorld(t, nil)
			must(t, w.SetIssuance(authority))
			good := w.have(1, byHTTP("good.example.com"), "good.example.com")
			bad := w.have(2, byHTTP("bad.example.com"), "bad.example.com")
			w.rejects = map[contract.SiteID]bool{bad.ID: true}
			w.obtain = func(_ context.Context, want want, _ *bundle) (*bundle, error) {
				return ca.bundle(t, acmeCA, 90*day, want.name.String()), nil
			}
			w.runs()
			time.Sleep(5*time.Hour + 10*time.Minute)
			synctest.Wait()
			var at []time.Time
			for i, call := range w.calls() {
				if i > 1 && len(call.sites) != 1 {
					t.Errorf("call %d is of %d sites", i, len(call.sites))
				}
				if call.sites[len(call.sites)-1] == bad.ID {
					at = append(at, call.at)
				}
			}
			want := []time.Duration{5 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 32 * time.Minute, time.Hour, time.Hour, time.Hour, time.Hour}
			if len(at) < 2 || len(at) > len(want)+1 {
				t.Fatalf("told %d times in five hours", len(at))
			}
			for i, next := range at[1:] {
				if got := next.Sub(at[i]); got < want[i] || got > want[i]+2*serveRest {
					t.Errorf("wait %d is %s, want %s", i, got, want[i])
				}
			}
			if w.record(key{good.Handle, domain(t, "good.example.com")}).Unserved || !w.record(key{bad.Handle, domain(t, "bad.example.com")}).Unserved {
				t.Error("what is noted is not what is served")
			}
			w.mu.Lock()
			w.rejects = nil
			w.mu.Unlock()
			time.Sleep(time.Hour)
			synctest.Wait()
			if w.record(key{bad.Handle, domain(t, "bad.example.com")}).Unserved {
				t.Error("it is not noted that it is served")
			}
		})
	})
	t.Run("destroys no key of a site that nginx has not let go of", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ca, w := newSigner(t), newWorld(t, nil)
			s := w.have(1, byHTTP(), "a.example.com")
			w.put(s, "a.example.com", ca.bundle(t, uploaded, 90*day, "a.example.com"))
			w.rejects = map[contract.SiteID]bool{s.ID: true}
			w.runs()
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			path := w.files.pem(key{s.Handle, domain(t, "a.example.com")})
			if _, err := os.Stat(path); err != nil || len(w.calls()) < 2 {
				t.Errorf("after %d calls: %v", len(w.calls()), err)
			}
			w.mu.Lock()
			w.rejects = nil
			w.mu.Unlock()
			time.Sleep(time.Hour)
			synctest.Wait()
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the key is left: %v", err)
			}
		})
	})
	t.Run("gives up a hopeless name to a try a week, says why, and starts anew when the site changes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			must(t, w.SetIssuance(authority))
			s := w.have(1, byHTTP("a.example.com"), "a.example.com")
			var tries []time.Time
			w.obtain = func(context.Context, want, *bundle) (*bundle, error) {
				tries = append(tries, time.Now())
				return nil, &failure{kind: ofName, text: "the CA saw nothing"}
			}
			start := time.Now()
			stop := w.runs()
			time.Sleep(6 * day)
			synctest.Wait()
			if n := len(tries); n < 9 || n > 14 {
				t.Errorf("%d tries in six days", n)
			}
			if first := tries[1].Sub(start); first > 3*time.Minute {
				t.Errorf("the second try comes after %s", first)
			}
			time.Sleep(30 * day)
			before := len(tries)
			time.Sleep(28 * day)
			synctest.Wait()
			if n := len(tries) - before; n < 3 || n > 6 {
				t.Errorf("%d tries in four weeks of hopelessness", n)
			}
			seen := w.Observe(t.Context(), s)[0]
			if !strings.Contains(seen.GetProblem(), "the CA saw nothing") || seen.GetFailures() != uint32(len(tries)) || !seen.GetNextTryTime().AsTime().After(time.Now()) {
				t.Errorf("observed: %v", seen)
			}
			before = len(tries)
			w.have(1, byHTTP("a.example.com"), "a.example.com")
			w.Wake()
			time.Sleep(30 * time.Minute)
			synctest.Wait()
			if n := len(tries) - before; n < 3 {
				t.Errorf("%d tries in half an hour after the site changed", n)
			}
			stop()
		})
	})
	t.Run("keeps a working certificate through ten days of failures, daily", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ca, w := newSigner(t), newWorld(t, nil)
			must(t, w.SetIssuance(authority))
			s := w.have(1, byHTTP("a.example.com"), "a.example.com")
			w.put(s, "a.example.com", ca.bundle(t, acmeCA, 90*day, "a.example.com"))
			before, err := os.ReadFile(w.files.pem(key{s.Handle, domain(t, "a.example.com")}))
			must(t, err)
			tries := 0
			w.obtain = func(context.Context, want, *bundle) (*bundle, error) {
				tries++
				return nil, errors.New("connection refused")
			}
			time.Sleep(60 * day)
			w.runs()
			time.Sleep(10 * day)
			synctest.Wait()
			after, err := os.ReadFile(w.files.pem(key{s.Handle, domain(t, "a.example.com")}))
			must(t, err)
			if tries < 10 || tries > 18 || string(before) != string(after) {
				t.Errorf("%d tries in ten days, the file is unchanged: %v", tries, string(before) == string(after))
			}
		})
	})
	t.Run("renews the certificate of a site whose order failed, and orders no first one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ca, w := newSigner(t), newWorld(t, nil)
			must(t, w.SetIssuance(authority))
			s := w.have(1, byHTTP("a.example.com", "new.example.com"), "a.example.com", "new.example.com")
			w.put(s, "a.example.com", ca.bundle(t, acmeCA, 90*day, "a.example.com"))
			w.sites[0].Converged = 0
			w.obtain = func(_ context.Context, want want, _ *bundle) (*bundle, error) {
				if want.name.String() != "a.example.com" {
					t.Errorf("%s is ordered", want.name)
				}
				return ca.bundle(t, acmeCA, 90*day, want.name.String()), nil
			}
			time.Sleep(61 * day)
			w.runs()
			time.Sleep(day)
			synctest.Wait()
			if h := w.held(key{s.Handle, domain(t, "a.example.com")}); time.Until(h.notAfter) < 80*day {
				t.Error("not renewed")
			}
		})
	})
	for _, jump := range []time.Duration{3650 * day, -3650 * day} {
		t.Run(fmt.Sprintf("orders nothing, and calls nothing over, when the clock jumps by %s", jump), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(7300 * day) // so that there is something behind
				ca, w := newSigner(t), newWorld(t, nil)
				must(t, w.SetIssuance(authority))
				s := w.have(1, byHTTP("a.example.com"), "a.example.com")
				b := ca.bundle(t, acmeCA, 90*day, "a.example.com")
				w.put(s, "a.example.com", b)
				w.past(b.leaf().NotBefore)
				w.wall = func() time.Time { return time.Now().Add(jump) }
				w.obtain = func(context.Context, want, *bundle) (*bundle, error) {
					t.Error("ordered")
					return nil, errors.New("no")
				}
				w.runs()
				time.Sleep(time.Hour)
				synctest.Wait()
				if now, trusted := w.now(); trusted || !dueAt(w.held(key{s.Handle, domain(t, "a.example.com")}), nil, "a.example.com").After(now) {
					t.Errorf("believes %s, %v", now, trusted)
				}
				if seen := w.Observe(t.Context(), s)[0]; !strings.Contains(seen.GetProblem(), "this server's clock says") {
					t.Errorf("problem: %s", seen.GetProblem())
				}
				// The control plane knows better, whatever the host's clock says.
				w.cfg.Clock = new(clock.Clock)
				w.cfg.Clock.Set(time.Now())
				if now, trusted := w.now(); !trusted || time.Until(now).Abs() > time.Minute {
					t.Errorf("believes %s, %v", now, trusted)
				}
			})
		})
	}
	t.Run("a certificate of a site that is removed meanwhile is not stored", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ca, w := newSigner(t), newWorld(t, nil)
			must(t, w.SetIssuance(authority))
			s := w.have(1, byHTTP("a.example.com"), "a.example.com")
			w.obtain = func(_ context.Context, want want, _ *bundle) (*bundle, error) {
				w.mu.Lock()
				w.sites = nil
				w.mu.Unlock()
				must(t, w.Remove(s.Handle))
				return ca.bundle(t, acmeCA, 90*day, want.name.String()), nil
			}
			w.runs()
			time.Sleep(time.Minute)
			synctest.Wait()
			if _, err := os.Stat(w.files.site(s.Handle)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something is left of it: %v", err)
			}
		})
	})
	t.Run("waits for a CA to be configured, and says so", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			s := w.have(1, byHTTP("a.example.com"), "a.example.com")
			w.runs()
			time.Sleep(time.Minute)
			synctest.Wait()
			if seen := w.Observe(t.Context(), s)[0]; seen.GetProblem() != noAuthority || seen.GetFailures() != 0 {
				t.Errorf("observed: %v", seen)
			}
		})
	})
}

// TestTakenAway is of names that are a site's no more.
func TestTakenAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, w := newSigner(t), newWorld(t, nil)
		must(t, w.SetIssuance(authority))
		w.obtain = func(context.Context, want, *bundle) (*bundle, error) {
			return nil, &failure{kind: ofName, text: "not now"}
		}
		all := []string{"a.example.com", "b.example.com", "*.b.example.com", "never.example.com"}
		s := w.have(1, byHTTP(all...), all...)
		for _, name := range all[:3] {
			w.put(s, name, ca.bundle(t, acmeCA, 90*day, name))
		}
		of := func(name string) key { return key{s.Handle, domain(t, name)} }
		files := func(name string) []string {
			base := strings.TrimSuffix(w.files.pem(of(name)), ".pem")
			found, err := filepath.Glob(base + ".*")
			must(t, err)
			left, err := filepath.Glob(filepath.Dir(base) + "/." + filepath.Base(base) + ".*")
			must(t, err)
			return append(found, left...)
		}
		w.runs()
		step := func(d time.Duration) {
			w.Wake()
			time.Sleep(d)
			synctest.Wait()
		}
		step(10 * time.Second)
		if len(w.calls()) > 0 || len(files("never.example.com")) == 0 {
			t.Fatalf("%d calls; nothing is known of a name that failed", len(w.calls()))
		}
		crashed := aside(w.files.pem(of("never.example.com")))
		must(t, os.WriteFile(crashed, []byte("a key"), 0o600))
		// An order is to come: nothing goes yet.
		w.have(1, byHTTP(), "a.example.com")
		w.mu.Lock()
		w.sites[0].Converged = 0
		w.rejects = map[contract.SiteID]bool{s.ID: true}
		w.mu.Unlock()
		step(2 * time.Minute)
		for _, name := range all {
			if len(files(name)) == 0 {
				t.Errorf("nothing is left of %s before the order is done", name)
			}
		}
		// It is done, and nginx still names the files.
		w.have(1, byHTTP(), "a.example.com")
		step(2 * time.Minute)
		if len(w.calls()) == 0 || len(files("b.example.com")) == 0 || len(files("*.b.example.com")) == 0 {
			t.Errorf("after %d calls a key that nginx uses is gone", len(w.calls()))
		}
		if left := files("never.example.com"); len(left) > 0 {
			t.Errorf("of a name that never had a certificate there is left: %v", left)
		}
		w.mu.Lock()
		w.rejects = nil
		w.mu.Unlock()
		step(time.Hour)
		for _, name := range all[1:] {
			if left := files(name); len(left) > 0 {
				t.Errorf("of %s there is left: %v", name, left)
			}
		}
		if w.held(of("a.example.com")) == nil {
			t.Error("the certificate of a name that stays is gone")
		}
		before := len(w.calls())
		step(time.Hour)
		if n := len(w.calls()) - before; n > 0 {
			t.Errorf("nginx is told %d times more", n)
		}
		// A name that comes back begins anew.
		s = w.have(1, byHTTP(all...), all...)
		if got := w.Paths(s.Handle, []contract.Domain{domain(t, "b.example.com")}); len(got) > 0 || w.record(of("never.example.com")).Failures > 0 {
			t.Errorf("served: %v; %+v", got, w.record(of("never.example.com")))
		}
	})
}

// TestWantedAgain is of a certificate that was withdrawn, and is wanted again.
func TestWantedAgain(t *testing.T) {
	name := domain(t, "a.example.com")
	withdrawn := func(t *testing.T) (w *world, s task.Site, k key, ca signer) {
		ca, w = newSigner(t), newWorld(t, nil)
		must(t, w.SetIssuance(authority))
		s = w.have(1, byHTTP(), name.String())
		k = key{s.Handle, name}
		w.put(s, name.String(), ca.bundle(t, uploaded, 90*day, name.String()))
		w.withdraw(s, nil, []contract.Domain{name})
		if r := w.record(k); !r.Withdrawn || len(w.Paths(s.Handle, []contract.Domain{name})) > 0 {
			t.Fatalf("not withdrawn: %+v", r)
		}
		return w, s, k, ca
	}
	t.Run("is withdrawn no more before the new one is in its place", func(t *testing.T) {
		w, s, k, ca := withdrawn(t)
		// In the place of a crash: the new file can't be written.
		must(t, os.Mkdir(aside(w.files.pem(k)), 0o700))
		if err := w.store(k, s.ID, ca.bundle(t, acmeCA, 90*day, name.String()), func() bool { return true }); err == nil {
			t.Fatal("stored")
		}
		w.again(nil)
		if r := w.record(k); r.Withdrawn || !r.Unserved {
			t.Errorf("after a crash: %+v", r)
		}
	})
	t.Run("is not destroyed when nginx has let go of it, and served again", func(t *testing.T) {
		w, _, k, _ := withdrawn(t)
		s := w.have(1, byHTTP(name.String()), name.String())
		batch, _ := w.batch(time.Now())
		must(t, w.load(t.Context(), batch))
		if len(w.Paths(s.Handle, []contract.Domain{name})) != 1 {
			t.Error("destroyed, or withdrawn still")
		}
		if batch, _ = w.batch(time.Now()); batch[k] != s.ID {
			t.Errorf("nginx is told of %v", batch)
		}
	})
	t.Run("is served again as soon as it is wanted", func(t *testing.T) {
		w, _, k, _ := withdrawn(t)
		s := w.have(1, byHTTP(name.String()), name.String())
		_, _, err := w.due()
		must(t, err)
		if r := w.record(k); r.Withdrawn || !r.Unserved || len(w.Paths(s.Handle, []contract.Domain{name})) != 1 {
			t.Errorf("%+v", r)
		}
	})
}

// TestFormer has nginx judge new certificates.
func TestFormer(t *testing.T) {
	name := domain(t, "a.example.com")
	// renewed runs a site whose certificate was replaced, until nginx was told of
	// it; takes says whether it takes the new one.
	renewed := func(t *testing.T, life time.Duration, takes bool) (w *world, k key, old, fresh *bundle) {
		ca := newSigner(t)
		w = newWorld(t, nil)
		must(t, w.SetIssuance(authority))
		s := w.have(1, byHTTP(name.String()), name.String())
		k = key{s.Handle, name}
		old, fresh = ca.bundle(t, acmeCA, life, name.String()), ca.bundle(t, acmeCA, 90*day, name.String())
		w.put(s, name.String(), old)
		must(t, w.store(k, s.ID, fresh, func() bool { return true }))
		if st, err := os.Stat(w.files.former(k)); err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("the former is not kept: %v", err)
		}
		w.obtain = func(context.Context, want, *bundle) (*bundle, error) {
			return nil, &failure{kind: ofName, text: "not now"}
		}
		w.cfg.Serve = func(ctx context.Context, ids []contract.SiteID) ([]contract.SiteID, error) {
			served, err := w.serveSites(ctx, ids)
			if h := w.held(k); err == nil && !takes && h != nil && h.sha256 == fingerprint(fresh.leaf()) {
				return nil, nil
			}
			return served, err
		}
		return w, k, old, fresh
	}
	holds := func(w *world, k key, b *bundle) bool {
		h := w.held(k)
		return h != nil && h.sha256 == fingerprint(b.leaf())
	}
	gone := func(w *world, k key) bool {
		_, err := os.Stat(w.files.former(k))
		return errors.Is(err, fs.ErrNotExist)
	}
	t.Run("goes when nginx serves the new one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, k, _, fresh := renewed(t, 90*day, true)
			w.runs()
			time.Sleep(time.Minute)
			synctest.Wait()
			if !holds(w, k, fresh) || !gone(w, k) || w.record(k).Problem != "" {
				t.Errorf("holds the new one: %v, the former is gone: %v, %+v", holds(w, k, fresh), gone(w, k), w.record(k))
			}
		})
	})
	t.Run("is put back at once when the new one breaks nginx for everybody", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, k, old, _ := renewed(t, 90*day, false)
			if !w.Restore(k.handle) || !holds(w, k, old) || !gone(w, k) || !strings.Contains(w.record(k).Problem, "the former is served on") {
				t.Errorf("holds the former: %v, its copy is gone: %v, %+v", holds(w, k, old), gone(w, k), w.record(k))
			}
			if w.Restore(k.handle) {
				t.Error("there was something to put back once more")
			}
		})
	})
	t.Run("is put back when nginx refuses the new one twice, also after a restart, and the CA is left alone for most of a day", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, k, old, fresh := renewed(t, 30*day, false)
			w.again(nil)
			asked := 0
			w.obtain = func(context.Context, want, *bundle) (*bundle, error) {
				asked++
				return nil, &failure{kind: ofName, text: "not now"}
			}
			time.Sleep(25 * day) // the former is due
			stop := w.runs()
			time.Sleep(3 * time.Second)
			synctest.Wait()
			if !holds(w, k, fresh) || gone(w, k) {
				t.Error("put back after one refusal")
			}
			time.Sleep(18 * time.Hour)
			synctest.Wait()
			r := w.record(k)
			if !holds(w, k, old) || !gone(w, k) || r.Unserved || !strings.Contains(r.Problem, "the former is served on") || asked > 0 {
				t.Errorf("holds the former: %v, its copy is gone: %v, asked %d times, %+v", holds(w, k, old), gone(w, k), asked, r)
			}
			time.Sleep(7 * time.Hour)
			synctest.Wait()
			if asked == 0 {
				t.Error("the CA is never asked again")
			}
			stop()
		})
	})
	for why, change := range map[string]func(*task.Site){
		"an order is to come":      func(s *task.Site) { s.Desired.Generation++ },
		"the site is in the trash": func(s *task.Site) { s.Desired.Phase = sitev1.Phase_PHASE_TRASHED },
	} {
		t.Run("stays while "+why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, k, _, fresh := renewed(t, 90*day, false)
				change(&w.sites[0])
				w.runs()
				w.announce(k, w.sites[0].ID)
				time.Sleep(time.Hour)
				synctest.Wait()
				if !holds(w, k, fresh) || gone(w, k) || len(w.calls()) < 3 {
					t.Errorf("after %d calls it holds the new one: %v, the former is gone: %v", len(w.calls()), holds(w, k, fresh), gone(w, k))
				}
			})
		})
	}
	t.Run("stays away once it is over", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, k, _, fresh := renewed(t, time.Hour, false)
			time.Sleep(2 * time.Hour)
			w.runs()
			time.Sleep(time.Hour)
			synctest.Wait()
			if !holds(w, k, fresh) {
				t.Error("one that is over is served")
			}
		})
	})
	t.Run("is destroyed with its site", func(t *testing.T) {
		w, k, _, _ := renewed(t, 90*day, false)
		must(t, w.Forget(k.handle, []contract.Domain{name}))
		if left, err := filepath.Glob(w.files.site(k.handle) + "/*"); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}

// TestDisk fills a disk of its own.
func TestDisk(t *testing.T) {
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=256k,mode=0700"); err != nil {
		t.Fatalf("mount a small disk (needs root): %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(small, 0)) })
	ca := newSigner(t)
	w := newWorld(t, func(c *Config) { c.Dir = filepath.Join(small, "certificates") })
	must(t, w.SetIssuance(authority))
	s := w.have(1, byHTTP("a.example.com"), "a.example.com")
	k := key{s.Handle, domain(t, "a.example.com")}
	old := ca.bundle(t, acmeCA, time.Minute, "a.example.com")
	old.chain[0] = ca.sign(t, old.key.Public(), 0, func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-90 * day) }, "a.example.com") // over
	w.put(s, "a.example.com", old)
	before, err := os.ReadFile(w.files.pem(k))
	must(t, err)
	fill, err := os.Create(filepath.Join(small, "fill"))
	must(t, err)
	for chunk := make([]byte, 512); err == nil; {
		_, err = fill.Write(chunk)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	must(t, fill.Close())

	ordered := false
	w.obtain = func(_ context.Context, want want, _ *bundle) (*bundle, error) {
		ordered = true
		return ca.bundle(t, acmeCA, 90*day, want.name.String()), nil
	}
	j := &job{want: wants(s)[0]}
	w.do(t.Context(), j)
	if ordered {
		t.Error("a CA is asked for what can't be stored")
	}
	if r := w.record(k); r.Problem != "this server could not store a certificate; it goes on with what it has: its disk is full" || !r.NextTry.After(time.Now()) {
		t.Errorf("record: %+v", r)
	}
	// It fills between the order and its end, too.
	if err := w.store(k, s.ID, ca.bundle(t, acmeCA, 90*day, "a.example.com"), func() bool { return true }); err == nil {
		t.Error("stored on a full disk")
	}
	after, err := os.ReadFile(w.files.pem(k))
	must(t, err)
	if string(before) != string(after) || w.Paths(s.Handle, []contract.Domain{k.name})[k.name].Path == "" {
		t.Error("the old certificate is not what it was")
	}
	must(t, os.Remove(filepath.Join(small, "fill")))
	j = &job{want: wants(s)[0]}
	w.do(t.Context(), j)
	if h := w.held(k); !ordered || h == nil || !h.notAfter.After(time.Now()) {
		t.Error("not obtained when there is room again")
	}
}

// handing is a control plane that hands out certificates.
type handing struct {
	away
	t        *testing.T
	ca       signer
	uploaded map[string]*bundle // by id
	wildcard *bundle            // of all preview names; nil for none
	asked    atomic.Int32
}

func (h *handing) IssuePlatformCertificate(_ context.Context, req *linkv1.IssuePlatformCertificateRequest) (*linkv1.IssuePlatformCertificateResponse, error) {
	h.asked.Add(1)
	if h.wildcard != nil {
		return handOut[linkv1.IssuePlatformCertificateResponse](h.t, h.wildcard, func(chain, key []byte) *linkv1.IssuePlatformCertificateResponse {
			return &linkv1.IssuePlatformCertificateResponse{Chain: chain, Key: key}
		}), nil
	}
	csr, err := x509.ParseCertificateRequest(req.GetCsr())
	if err != nil || csr.CheckSignature() != nil || len(csr.DNSNames) != 1 || csr.DNSNames[0] != req.GetDomain() {
		return nil, fmt.Errorf("bad request: %w", err)
	}
	leaf := h.ca.sign(h.t, csr.PublicKey, 30*day, nil, req.GetDomain())
	b := &bundle{chain: []*x509.Certificate{leaf}}
	return &linkv1.IssuePlatformCertificateResponse{Chain: chainPEM(b)}, nil
}

func (h *handing) FetchCertificate(_ context.Context, req *linkv1.FetchCertificateRequest) (*linkv1.FetchCertificateResponse, error) {
	h.asked.Add(1)
	b := h.uploaded[req.GetCertificateId()]
	if b == nil {
		return nil, errors.New("there is no such certificate")
	}
	return handOut[linkv1.FetchCertificateResponse](h.t, b, func(chain, key []byte) *linkv1.FetchCertificateResponse {
		return &linkv1.FetchCertificateResponse{Chain: chain, Key: key}
	}), nil
}

func handOut[T any](t *testing.T, b *bundle, as func(chain, key []byte) *T) *T {
	alone := &bundle{key: b.key}
	text, err := alone.text()
	must(t, err)
	return as(chainPEM(b), text)
}

func TestPlatform(t *testing.T) {
	const preview = "shop.preview.example.net"
	for _, kind := range []string{"own key", "the operator's wildcard"} {
		t.Run("a preview name has its certificate as the site is brought about, once, by "+kind, func(t *testing.T) {
			h := &handing{t: t, ca: newSigner(t)}
			if kind != "own key" {
				h.wildcard = h.ca.bundle(t, platform, 90*day, "*.preview.example.net")
			}
			w := newWorld(t, func(c *Config) { c.Broker = h })
			https := byHTTP()
			https.PlatformDomains = []string{preview}
			s := w.have(1, https, "shop.example.com")
			must(t, w.EnsurePlatform(t.Context(), s))
			must(t, w.EnsurePlatform(t.Context(), s))
			name := domain(t, preview)
			got := w.Paths(s.Handle, []contract.Domain{name, domain(t, "shop.example.com")})
			if len(got) != 1 || got[name].Trusted || h.asked.Load() != 1 {
				t.Errorf("paths: %v, asked %d times", got, h.asked.Load())
			}
		})
	}
	t.Run("an error says what the control plane said", func(t *testing.T) {
		w := newWorld(t, nil)
		https := byHTTP()
		https.PlatformDomains = []string{preview}
		if err := w.EnsurePlatform(t.Context(), w.have(1, https, "a.example.com")); !errors.Is(err, errAway) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("is asked for again once the control plane is back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			https := byHTTP()
			https.PlatformDomains = []string{preview}
			s := w.have(1, https, "a.example.com")
			if err := w.EnsurePlatform(t.Context(), s); !errors.Is(err, errAway) {
				t.Fatal(err)
			}
			w.runs()
			time.Sleep(2 * time.Hour) // an hour to the next try
			synctest.Wait()
			k := key{s.Handle, domain(t, preview)}
			w.cfg.Broker = &handing{t: t, ca: newSigner(t)}
			time.Sleep(time.Minute)
			synctest.Wait()
			if w.held(k) != nil {
				t.Fatal("it was had before the control plane said that it is back")
			}
			must(t, w.SetIssuance(new(linkv1.Issuance)))
			time.Sleep(linkedWithin + time.Second)
			synctest.Wait()
			if w.held(k) == nil {
				t.Errorf("not yet: %+v", w.record(k))
			}
		})
	})
	t.Run("is renewed at two thirds of its life, and kept while the control plane is away", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := &handing{t: t, ca: newSigner(t)}
			w := newWorld(t, func(c *Config) { c.Broker = h })
			https := byHTTP()
			https.PlatformDomains = []string{preview}
			s := w.have(1, https, "a.example.com")
			must(t, w.EnsurePlatform(t.Context(), s))
			first := w.held(key{s.Handle, domain(t, preview)})
			w.cfg.Broker = away{}
			stop := w.runs()
			time.Sleep(25 * day)
			synctest.Wait()
			if got := w.held(key{s.Handle, domain(t, preview)}); got == nil || got.sha256 != first.sha256 {
				t.Error("not kept")
			}
			stop()
			w.cfg.Broker = h
			w.runs()
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if got := w.held(key{s.Handle, domain(t, preview)}); got == nil || got.sha256 == first.sha256 {
				t.Error("not renewed")
			}
		})
	})
}

func TestUploaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handing{t: t, ca: newSigner(t), uploaded: map[string]*bundle{}}
		h.uploaded["one"] = h.ca.bundle(t, uploaded, 90*day, "*.example.com", "example.com")
		w := newWorld(t, func(c *Config) { c.Broker = h })
		print := fingerprint(h.uploaded["one"].leaf())
		https := byHTTP()
		https.Uploaded = uploads("one", print, "example.com", "www.example.com")
		s := w.have(1, https, "example.com", "www.example.com", "*.example.com")
		names := []contract.Domain{domain(t, "example.com"), domain(t, "www.example.com"), domain(t, "*.example.com")}
		w.runs()
		step := func() {
			w.Wake()
			time.Sleep(5 * time.Minute)
			synctest.Wait()
		}
		step()
		if got := w.Paths(s.Handle, names); len(got) != 2 || !got[names[1]].Trusted {
			t.Errorf("paths: %v", got)
		}
		// One that is not what the control plane said is not used, and the old stays.
		https = byHTTP()
		h.uploaded["two"] = h.ca.bundle(t, uploaded, 90*day, "example.com", "www.example.com")
		https.Uploaded = uploads("two", print, "example.com")
		other := fingerprint(h.uploaded["one"].chain[0])
		other[0]++
		https.Uploaded[0].Sha256 = other[:]
		s = w.have(1, https, "example.com", "*.example.com")
		step()
		if got := w.held(key{s.Handle, names[0]}); got == nil || got.sha256 != print {
			t.Errorf("held: %v", got)
		}
		if r := w.record(key{s.Handle, names[0]}); !strings.Contains(r.Problem, "another one than the site is to have") {
			t.Errorf("problem: %q", r.Problem)
		}
		// One that was taken away goes, once nginx has let go of it.
		calls := len(w.calls())
		w.have(1, byHTTP(), "example.com", "*.example.com")
		step()
		if got := w.Paths(s.Handle, names[:1]); len(got) != 0 || len(w.calls()) != calls+1 {
			t.Errorf("paths: %v; %d calls", got, len(w.calls())-calls)
		}
		if _, err := os.Stat(w.files.pem(key{s.Handle, names[0]})); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the key is left: %v", err)
		}
		must(t, w.Forget(s.Handle, names))
		if left, err := filepath.Glob(w.files.site(s.Handle) + "/*"); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}

func TestSetIssuance(t *testing.T) {
	w := newWorld(t, nil)
	must(t, w.SetIssuance(authority))
	path := filepath.Join(w.cfg.Dir, "issuance")
	st, err := os.Stat(path)
	must(t, err)
	if st.Mode().Perm() != 0o600 {
		t.Errorf("mode %s", st.Mode())
	}
	must(t, os.Remove(path))
	must(t, w.SetIssuance(authority))
	if _, err := os.Stat(path); err == nil {
		t.Error("what is known already is written again")
	}
	for what, bad := range map[string]*linkv1.Issuance{
		"a name that is a path":    {Issuers: []*linkv1.Issuer{{Name: "../x", DirectoryUrl: "https://ca.invalid/"}}},
		"a URL without TLS":        {Issuers: []*linkv1.Issuer{{Name: "x", DirectoryUrl: "http://ca.invalid/"}}},
		"two of one name":          {Issuers: []*linkv1.Issuer{{Name: "x", DirectoryUrl: "https://a.invalid/"}, {Name: "x", DirectoryUrl: "https://b.invalid/"}}},
		"roots that hold none":     {Issuers: []*linkv1.Issuer{{Name: "x", DirectoryUrl: "https://a.invalid/", Roots: []byte("x")}}},
		"no roots of the platform": {PlatformRoots: []byte("x")},
	} {
		if err := w.SetIssuance(bad); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	if len(w.authorities()) != 1 {
		t.Error("what was refused has changed something")
	}
	// What can't be kept is said again at the next Hello, and taken then.
	two := &linkv1.Issuance{Issuers: append([]*linkv1.Issuer{{Name: "second", DirectoryUrl: "https://second.invalid/"}}, authority.Issuers...)}
	must(t, os.Mkdir(aside(path), 0o700)) // in the place of a full disk
	if err := w.SetIssuance(two); err == nil || len(w.authorities()) != 1 {
		t.Errorf("in use are %d though that could not be kept: %v", len(w.authorities()), err)
	}
	must(t, os.Remove(aside(path)))
	must(t, w.SetIssuance(two))
	w.again(nil)
	if all := w.authorities(); len(all) != 2 {
		t.Errorf("after it was said again and a restart there are %d", len(all))
	}
	must(t, w.SetIssuance(&linkv1.Issuance{Issuers: append([]*linkv1.Issuer{{Name: "first", DirectoryUrl: "https://first.invalid/"}}, authority.Issuers...)}))
	w.again(nil)
	if all := w.authorities(); len(all) != 2 || all[0].issuer.GetName() != "first" {
		t.Errorf("after a restart there are %d", len(all))
	}
	var _ Registry = (*task.Engine)(nil)
}
