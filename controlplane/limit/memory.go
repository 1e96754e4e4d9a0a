package limit

import (
	"context"
	"hash/maphash"
	"sync"
	"time"
)

// memory counts in this process, in bounded space.
type memory struct {
	seed   maphash.Seed
	shards [shards]shard
}

// Some 100 bytes for each key: 13 MB when somebody comes from everywhere at once.
const (
	shards       = 16 // so that cores do not wait for each other
	keysPerShard = 8192
)

type shard struct {
	mu   sync.Mutex
	keys map[uint64]*counts
}

// counts is one key's window.
type counts struct {
	last int64         // the slot that was counted in last
	in   [slots]uint32 // a ring, by slot
}

func newMemory() *memory {
	m := &memory{seed: maphash.MakeSeed()}
	for i := range m.shards {
		m.shards[i].keys = map[uint64]*counts{}
	}
	return m
}

func (m *memory) take(_ context.Context, now time.Time, rate int, look bool, keys []string) window {
	var fullest window
	for _, key := range keys {
		fullest = fuller(fullest, m.at(key, func(s *shard, hash uint64) window { return s.keys[hash].window(now) }))
	}
	if look || fullest.used >= rate {
		return fullest
	}
	// Between the two passes others may have counted, too: whoever finds a window full then gives back what it took.
	var taken []string
	for _, key := range keys {
		w := m.at(key, func(s *shard, hash uint64) window { return s.add(hash, now, rate) })
		if w.used >= rate {
			for _, key := range taken {
				m.at(key, func(s *shard, hash uint64) window { return s.keys[hash].giveBack(now) })
			}
			return w
		}
		taken = append(taken, key)
		fullest = fuller(fullest, w)
	}
	return fullest
}

func fuller(a, b window) window {
	if b.used >= a.used {
		return b
	}
	return a
}

func (m *memory) at(key string, do func(*shard, uint64) window) window {
	hash := maphash.String(m.seed, key)
	s := &m.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	return do(s, hash)
}

// add counts one, if there is room, and gives the window as it was before.
func (s *shard) add(hash uint64, now time.Time, rate int) window {
	c := s.keys[hash]
	w := c.window(now)
	if w.used >= rate {
		return w
	}
	if c == nil {
		if len(s.keys) >= keysPerShard {
			s.forget(now)
		}
		c = &counts{last: slotOf(now)}
		s.keys[hash] = c
	}
	c.advance(slotOf(now))
	c.in[c.last%int64(slots)]++
	if w.used == 0 {
		w.free = leaves(c.last, now)
	}
	return w
}

// forget makes room: of a few, for all whose minute has passed, or else for the one that has done the least. So who has used
// up a limit is not forgotten because of many who come once.
func (s *shard) forget(now time.Time) {
	const few = 16
	seen, passed, least := 0, false, 0
	var victim uint64
	for hash, c := range s.keys { // it begins anywhere
		w := c.window(now)
		if w.used == 0 {
			delete(s.keys, hash)
			passed = true
		} else if seen == 0 || w.used < least {
			least, victim = w.used, hash
		}
		if seen++; seen == few {
			break
		}
	}
	if !passed {
		delete(s.keys, victim)
	}
}

// window is empty for nil, a key that was never counted.
func (c *counts) window(now time.Time) window {
	if c == nil {
		return window{}
	}
	slot := slotOf(now)
	var w window
	for s := max(slot, c.last) - int64(slots) + 1; s <= c.last; s++ {
		n := int(c.in[s%int64(slots)])
		if n > 0 && w.used == 0 {
			w.free = leaves(s, now)
		}
		w.used += n
	}
	return w
}

// advance empties the slots that have come round again. A clock that went back counts in the last slot.
func (c *counts) advance(slot int64) {
	for s := max(c.last+1, slot-int64(slots)+1); s <= slot; s++ {
		c.in[s%int64(slots)] = 0
	}
	c.last = max(c.last, slot)
}

func (c *counts) giveBack(now time.Time) window {
	if c != nil && c.in[c.last%int64(slots)] > 0 {
		c.in[c.last%int64(slots)]--
	}
	return c.window(now)
}
