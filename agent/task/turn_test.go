package task

import (
	"context"
	"errors"
	"testing"
	"time"

	"chom.dev/proto/contract"
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
