package link_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"chom.dev/agent/link/linktest"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// chatter has a line to tell every few milliseconds.
type chatter struct {
	mu    sync.Mutex
	looks map[string]int // that are under way, by site
	begun int
}

func (c *chatter) Show(ctx context.Context, wanted *linkv1.ShowLogs, report func(context.Context, []*sitev1.LogLine) (bool, error)) error {
	c.mu.Lock()
	c.looks[wanted.GetSiteId()]++
	c.begun++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.looks[wanted.GetSiteId()]--
	}()
	for {
		still, err := report(ctx, []*sitev1.LogLine{{Text: "of " + wanted.GetSiteId()}})
		if err != nil || !still {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (c *chatter) underWay() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, looks := range c.looks {
		n += looks
	}
	return n
}

func TestLogs(t *testing.T) {
	s := linktest.New(t)
	a := enrolled(t, s)
	c := &chatter{looks: map[string]int{}}
	a.logs = c
	a.start().connected()
	show := func(watch string) {
		s.Send(a.id, &linkv1.LinkMessage{Message: &linkv1.LinkMessage_ShowLogs{ShowLogs: &linkv1.ShowLogs{WatchId: watch, SiteId: "site of " + watch}}})
	}
	heard := func(watch string, more int) func(*linktest.Agent) bool {
		return func(rec *linktest.Agent) bool {
			return len(rec.Logs[watch]) >= more && rec.Logs[watch][0] == "of site of "+watch
		}
	}
	show("1")
	show("2")
	show("1") // a repeat
	a.saw("lines of both", func(rec *linktest.Agent) bool { return heard("1", 3)(rec) && heard("2", 3)(rec) })
	if c.underWay() != 2 {
		t.Errorf("%d looks are under way", c.underWay())
	}
	a.does("while somebody looks")

	s.Look(a.id, func(rec *linktest.Agent) { rec.Unwanted = map[string]bool{"1": true} })
	a.until("the one that nobody wants ends", func() bool { return c.underWay() == 1 })
	show("3")
	a.saw("another one", heard("3", 1))

	for i := range 50 {
		show(fmt.Sprint("many ", i))
	}
	a.until("as many as may be are under way", func() bool { return c.underWay() == 20 })

	// A new session knows of none of them.
	s.Look(a.id, func(rec *linktest.Agent) { rec.Epoch += 7 })
	a.saw("a second hello", func(rec *linktest.Agent) bool { return len(rec.Hellos) == 2 })
	a.until("all have ended", func() bool { return c.underWay() == 0 })
	show("4")
	a.saw("one in the new epoch", heard("4", 1))
}
