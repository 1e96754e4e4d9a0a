package db

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
)

// AtEnd runs fn as the last thing before the commit; its error undoes the transaction. It is for the change of a row that
// very many transactions change, such as the head of a chain: key names that row, and fn must change nothing else that
// others wait for.
//
// The row is thus locked for as short as can be, always after all others, and in the order of the keys when there are
// several: no deadlock comes of it. On PostgreSQL a SERIALIZABLE transaction fails when the row was changed since it
// began, and would fail again and again where many write. So those of this process take turns: one that finds another at
// the row begins anew once it is alone with it.
func (tx *Tx) AtEnd(key string, fn func() error) { tx.ends = append(tx.ends, end{key, fn}) }

type end struct {
	key string
	fn  func() error
}

// end runs what AtEnd was given.
func (tx *Tx) end(t *turn) error {
	slices.SortStableFunc(tx.ends, func(a, b end) int { return cmp.Compare(a.key, b.key) })
	if tx.races {
		for _, e := range tx.ends {
			if !t.take(e.key) {
				return errNotItsTurn
			}
		}
	}
	for _, e := range tx.ends {
		if err := e.fn(); err != nil {
			return err
		}
	}
	return nil
}

// errNotItsTurn ends a transaction that found another one at its end.
var errNotItsTurn = errors.New("another transaction changes the same row at its end")

// turns says which transaction of this process is at which key. The zero value is ready.
type turns struct {
	mu sync.Mutex
	at map[string]*place
}

// place is a key that somebody is at or waits for.
type place struct {
	key   string
	taken chan struct{} // holds one token while somebody is at it
	users int           // guarded by turns.mu
}

func (t *turns) newTurn() *turn { return &turn{of: t} }

// turn is what one call of InTx holds over its tries.
type turn struct {
	of     *turns
	held   []*place
	wanted string // what was not free
}

func (t *turn) keys() (keys []string) {
	for _, p := range t.held {
		keys = append(keys, p.key)
	}
	return keys
}

// take takes a key if it is free, or held already.
func (t *turn) take(key string) bool {
	if slices.Contains(t.keys(), key) {
		return true
	}
	p := t.of.enter(key)
	select {
	case p.taken <- struct{}{}:
		t.held = append(t.held, p)
		return true
	default:
		t.of.exit(p)
		t.wanted = key
		return false
	}
}

// wait takes the key that was not free, and with it all that it had: in order, so that no two wait for each other.
func (t *turn) wait(ctx context.Context) error {
	keys := slices.Sorted(slices.Values(append(t.keys(), t.wanted)))
	t.leave()
	for _, key := range keys {
		p := t.of.enter(key)
		select {
		case p.taken <- struct{}{}:
			t.held = append(t.held, p)
		case <-ctx.Done():
			t.of.exit(p)
			return ctx.Err()
		}
	}
	return nil
}

// leave gives back all keys. Leaving twice is harmless.
func (t *turn) leave() {
	for _, p := range t.held {
		<-p.taken
		t.of.exit(p)
	}
	t.held = nil
}

func (t *turns) enter(key string) *place {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.at[key]
	if p == nil {
		p = &place{key: key, taken: make(chan struct{}, 1)}
		if t.at == nil {
			t.at = map[string]*place{}
		}
		t.at[key] = p
	}
	p.users++
	return p
}

func (t *turns) exit(p *place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.users--; p.users == 0 {
		delete(t.at, p.key)
	}
}
