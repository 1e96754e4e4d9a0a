package task

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"chom.dev/proto/contract"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

func TestBetween(t *testing.T) {
	t.Run("waits for the order that runs, and sees what it left", func(t *testing.T) {
		h := newHost(t)
		running, end := make(chan struct{}), make(chan struct{})
		h.handlers[ConvergeSite] = HandlerFunc(func(Order) (Plan, error) {
			return Plan{Steps: []Step{{Name: "only", Do: func(context.Context, *Log) error {
				close(running)
				<-end
				return nil
			}}}}, nil
		})
		h.start()
		defer h.end()
		d := desired()
		o := h.offer(h.order(converge(d)))
		<-running
		seen := make(chan uint64, 1)
		id := must(contract.ParseSiteID(d.SiteId))
		go func() {
			if err := h.engine.Between(t.Context(), id, func(s Site) error { seen <- s.Converged; return nil }); err != nil {
				t.Error(err)
			}
		}()
		select {
		case <-seen:
			t.Error("did not wait")
		case <-time.After(50 * time.Millisecond):
		}
		close(end)
		if r := h.result(o); r.Outcome != succeeded {
			t.Fatal(r)
		}
		if got := <-seen; got != d.Generation {
			t.Errorf("saw generation %d converged, want %d", got, d.Generation)
		}
	})
	t.Run("keeps orders of the site from starting, and no others", func(t *testing.T) {
		h := newHost(t)
		h.handlers[ConvergeSite] = HandlerFunc(func(Order) (Plan, error) {
			return Plan{Steps: []Step{{Name: "only", Do: func(context.Context, *Log) error { return nil }}}}, nil
		})
		h.start()
		defer h.end()
		d, other := desired(), desired()
		h.result(h.offer(h.order(converge(d))))
		id := must(contract.ParseSiteID(d.SiteId))
		next := clone(d)
		next.Generation++
		err := h.engine.Between(t.Context(), id, func(Site) error {
			h.offer(h.order(converge(next)))
			h.result(h.offer(h.order(converge(other))))
			rec, _, err := h.journal.Site(id)
			if err == nil && rec.Converged != d.Generation {
				err = errors.New("the order ran meanwhile")
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("passes over a site that nobody knows", func(t *testing.T) {
		h := newHost(t).start()
		defer h.end()
		if err := h.engine.Between(t.Context(), contract.NewSiteID(), func(Site) error { return errors.New("called") }); err != nil {
			t.Error(err)
		}
	})
}

func TestInQuiet(t *testing.T) {
	h := newHost(t)
	h.handlers[ConvergeSite] = HandlerFunc(func(Order) (Plan, error) {
		return Plan{Steps: []Step{{Name: "only", Do: func(context.Context, *Log) error { return nil }}}}, nil
	})
	h.start()
	defer h.end()
	d := desired()
	h.result(h.offer(h.order(converge(d))))
	id := must(contract.ParseSiteID(d.SiteId))
	never := func(context.Context, Site) error {
		t.Error("it was done")
		return nil
	}

	t.Run("asks nobody who is at the site to give way", func(t *testing.T) {
		if err := h.engine.GivingWay(t.Context(), id, func(ctx context.Context, _ Site) error {
			if free, err := h.engine.InQuiet(t.Context(), id, never); free || err != nil {
				t.Errorf("free %t, %v", free, err)
			}
			return context.Cause(ctx)
		}); err != nil {
			t.Errorf("whoever was there was told: %v", err)
		}
	})
	t.Run("gives way to an order, again and again", func(t *testing.T) {
		for range 3 {
			next := clone(d)
			next.Generation++
			d = next
			var o *orderv1.Order
			free, err := h.engine.InQuiet(t.Context(), id, func(ctx context.Context, s Site) error {
				if s.Converged != next.Generation-1 || ctx.Err() != nil {
					t.Errorf("site %+v, %v", s, ctx.Err())
				}
				if free, err := h.engine.InQuiet(t.Context(), id, never); free || err != nil || ctx.Err() != nil {
					t.Errorf("the second one: free %t, %v, the first one: %v", free, err, ctx.Err())
				}
				o = h.offer(h.order(converge(next)))
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Second):
					t.Error("nobody told it")
				}
				return context.Cause(ctx)
			})
			if !free || !errors.Is(err, ErrYielded) {
				t.Errorf("free %t, %v", free, err)
			}
			if r := h.result(o); r.Outcome != succeeded {
				t.Fatal(r)
			}
		}
	})
	t.Run("leaves nothing behind", func(t *testing.T) {
		left := func() int {
			all := &h.engine.turns
			all.mu.Lock()
			defer all.mu.Unlock()
			return len(all.users) + len(all.queue) + len(all.yield)
		}
		for range 1000 { // the last order's own turn ends after its result
			if left() == 0 {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Errorf("%d are left", left())
	})
}

func TestGivingWay(t *testing.T) {
	begin := func(t *testing.T) (h *host, d *sitev1.DesiredState, id contract.SiteID) {
		h = newHost(t)
		h.handlers[ConvergeSite] = HandlerFunc(func(Order) (Plan, error) {
			return Plan{Steps: []Step{{Name: "only", Do: func(context.Context, *Log) error { return nil }}}}, nil
		})
		h.start()
		d = desired()
		h.result(h.offer(h.order(converge(d))))
		return h, d, must(contract.ParseSiteID(d.SiteId))
	}
	t.Run("an order that comes has it stop, and is carried out then", func(t *testing.T) {
		h, d, id := begin(t)
		defer h.end()
		next := clone(d)
		next.Generation++
		var o *orderv1.Order
		err := h.engine.GivingWay(t.Context(), id, func(ctx context.Context, s Site) error {
			if s.Converged != d.Generation || ctx.Err() != nil {
				t.Errorf("site %+v, %v", s, ctx.Err())
			}
			o = h.offer(h.order(converge(next)))
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Second):
				t.Error("nobody told it")
			}
			return context.Cause(ctx)
		})
		if !errors.Is(err, ErrYielded) {
			t.Errorf("got %v", err)
		}
		if r := h.result(o); r.Outcome != succeeded {
			t.Error(r)
		}
	})
	t.Run("whoever waits already has it stop at once, and nobody does when there is none", func(t *testing.T) {
		var all turns
		give, err := all.take(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan struct{}, 2)
		first := make(chan func(), 1)
		go func() {
			give, err := all.takeYielding(t.Context(), "a", func() { told <- struct{}{} })
			if err != nil {
				t.Error(err)
			}
			first <- give
		}()
		waits := func(n int) {
			for range 1000 {
				all.mu.Lock()
				users := all.users["a"]
				all.mu.Unlock()
				if users == n {
					return
				}
				time.Sleep(time.Millisecond)
			}
			t.Errorf("there are not %d who have or want the turn", n)
		}
		waits(2)
		second := make(chan func(), 1)
		go func() {
			give, err := all.take(t.Context(), "a")
			if err != nil {
				t.Error(err)
			}
			second <- give
		}()
		waits(3)
		give()
		give = <-first
		select {
		case <-told:
		case <-time.After(10 * time.Second):
			t.Error("nobody told it")
		}
		give()
		(<-second)()
		give, err = all.takeYielding(t.Context(), "a", func() { t.Error("told, and nobody waits") })
		if err != nil {
			t.Fatal(err)
		}
		give()
		if give, err = all.take(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		give()
		if len(all.users)+len(all.queue)+len(all.yield) > 0 {
			t.Error("something is left")
		}
	})
}

func TestPerform(t *testing.T) {
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	done := map[string]bool{"there": true}
	var did []string
	step := func(name string, do func() error) Step {
		return Step{
			Name: name, Probe: func(context.Context) (bool, string, error) { return done[name], "", nil },
			Do: func(_ context.Context, l *Log) error { l.Printf("%s", name); did = append(did, name); return do() },
		}
	}
	works := func(name string) Step { return step(name, func() error { done[name] = true; return nil }) }
	if err := Perform(t.Context(), log, works("there"), works("new")); err != nil || len(did) != 1 || did[0] != "new" {
		t.Errorf("did %v, %v", did, err)
	}
	for want, bad := range map[string]Step{
		"bad: broken":                 step("bad", func() error { return errors.New("broken") }),
		"bad: " + errNoEffect.Error(): step("bad", func() error { return nil }),
		"bad: internal error: oh":     step("bad", func() error { panic("oh") }),
	} {
		did = nil
		if err := Perform(t.Context(), log, bad, works("after")); err == nil || !strings.HasPrefix(err.Error(), want) || len(did) != 1 {
			t.Errorf("want %q, got %v, did %v", want, err, did)
		}
	}
}
