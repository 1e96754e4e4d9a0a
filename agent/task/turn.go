package task

import (
	"context"
	"fmt"
	"sync"

	"chom.dev/proto/contract"
)

// turns lets one at a time at each site.
type turns struct {
	mu    sync.Mutex
	queue map[string]chan struct{} // holds a token while somebody has the turn
	users map[string]int           // who have it or wait for it
}

// take waits for a turn. Give it back with what it returns.
func (t *turns) take(ctx context.Context, name string) (give func(), err error) {
	t.mu.Lock()
	if t.queue == nil {
		t.queue, t.users = map[string]chan struct{}{}, map[string]int{}
	}
	turn := t.queue[name]
	if turn == nil {
		turn = make(chan struct{}, 1)
		t.queue[name] = turn
	}
	t.users[name]++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.users[name]--; t.users[name] == 0 {
			delete(t.users, name)
			delete(t.queue, name)
		}
	}
	select {
	case turn <- struct{}{}:
		return func() { <-turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// inTurn does an attempt while nobody else is at its site.
func (e *Engine) inTurn(ctx context.Context, lane string, do func() error) error {
	give, err := e.turns.take(ctx, lane)
	if err != nil {
		return errStopping
	}
	defer give()
	return do()
}

// Between does something at a site while none of its orders is carried out: what
// the host does by itself, such as taking a renewed certificate into use. It waits
// for the order that runs now, and then sees the site as that left it. A site
// that is not known, or gone, is passed over.
func (e *Engine) Between(ctx context.Context, id contract.SiteID, do func(Site) error) error {
	give, err := e.turns.take(ctx, id.String())
	if err != nil {
		return err
	}
	defer give()
	rec, found, err := e.cfg.Journal.Site(id)
	if err != nil || !found || rec.Gone {
		return err
	}
	site, err := fromRecord(rec)
	if err != nil {
		return fmt.Errorf("site %s: %w", id, err)
	}
	return do(site)
}
