package task

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"chom.dev/proto/contract"
)

// turns lets one at a time at each site.
type turns struct {
	mu    sync.Mutex
	queue map[string]chan struct{} // holds a token while somebody has the turn
	users map[string]int           // who have it or wait for it
	yield map[string]func()        // tells somebody who has it and gives way that another one waits
}

// take waits for a turn. Give it back with what it returns.
func (t *turns) take(ctx context.Context, name string) (give func(), err error) {
	t.mu.Lock()
	turn := t.enter(name)
	if tell := t.yield[name]; tell != nil {
		tell()
	}
	t.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn; t.leave(name) }, nil
	case <-ctx.Done():
		t.leave(name)
		return nil, ctx.Err()
	}
}

// takeYielding waits for a turn, and has somebody told when another one waits for it.
func (t *turns) takeYielding(ctx context.Context, name string, tell func()) (func(), error) {
	give, err := t.take(ctx, name)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.yield[name] = tell
	if t.users[name] > 1 {
		tell()
	}
	return func() {
		t.mu.Lock()
		delete(t.yield, name)
		t.mu.Unlock()
		give()
	}, nil
}

// takeFree takes a turn that nobody has or waits for, and has somebody told when another
// one waits for it; nil where it is not free.
func (t *turns) takeFree(name string, tell func()) (give func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users[name] > 0 {
		return nil
	}
	turn := t.enter(name)
	turn <- struct{}{} // it is new
	t.yield[name] = tell
	return func() {
		t.mu.Lock()
		delete(t.yield, name)
		t.mu.Unlock()
		<-turn
		t.leave(name)
	}
}

// enter counts somebody who wants the turn. Called with mu held.
func (t *turns) enter(name string) chan struct{} {
	if t.queue == nil {
		t.queue, t.users, t.yield = map[string]chan struct{}{}, map[string]int{}, map[string]func(){}
	}
	turn := t.queue[name]
	if turn == nil {
		turn = make(chan struct{}, 1)
		t.queue[name] = turn
	}
	t.users[name]++
	return turn
}

// leave counts somebody who has had it, or wants it no more.
func (t *turns) leave(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users[name]--; t.users[name] == 0 {
		delete(t.users, name)
		delete(t.queue, name)
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
	return e.at(id, do)
}

// ErrYielded is why the context of GivingWay ends before the one it was given.
var ErrYielded = errors.New("gave way to an order of the site")

// GivingWay is Between for what takes long: its context is canceled with ErrYielded
// as the cause once an order, or somebody else, waits for the site. It is then up to
// do to return soon.
func (e *Engine) GivingWay(ctx context.Context, id contract.SiteID, do func(context.Context, Site) error) error {
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	give, err := e.turns.takeYielding(ctx, id.String(), func() { stop(ErrYielded) })
	if err != nil {
		return err
	}
	defer give()
	return e.at(id, func(s Site) error { return do(working, s) })
}

// InQuiet is GivingWay for what can as well be done another time: nobody who is at the
// site is asked to give way. It says whether the site was free.
func (e *Engine) InQuiet(ctx context.Context, id contract.SiteID, do func(context.Context, Site) error) (free bool, err error) {
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	give := e.turns.takeFree(id.String(), func() { stop(ErrYielded) })
	if give == nil {
		return false, nil
	}
	defer give()
	return true, e.at(id, func(s Site) error { return do(working, s) })
}

// at does something at a site whose turn it is.
func (e *Engine) at(id contract.SiteID, do func(Site) error) error {
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
