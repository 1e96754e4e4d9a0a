package link

import (
	"net/netip"
	"sync"
	"time"
)

// strangers bounds what those without a certificate may try. A call takes one
// from the address's bucket and gives it back when it succeeds: a rack of new
// hosts behind one address enrols, somebody who guesses does not get far.
type strangers struct {
	perMinute float64
	mu        sync.Mutex
	buckets   map[netip.Addr]*bucket
}

type bucket struct {
	left float64
	at   time.Time // of left
}

// bucketsMax is where full buckets are forgotten.
const bucketsMax = 4096

func newStrangers(perMinute int) strangers {
	return strangers{perMinute: float64(perMinute), buckets: map[netip.Addr]*bucket{}}
}

// fill gives a bucket what the time since brought.
func (s *strangers) fill(b *bucket, now time.Time) {
	b.left = min(b.left+max(now.Sub(b.at).Minutes(), 0)*s.perMinute, s.perMinute)
	b.at = now
}

// enter takes one try, or says when there is one again.
func (s *strangers) enter(addr netip.Addr, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[addr]
	if b == nil {
		s.forget(now)
		if len(s.buckets) >= bucketsMax {
			return tooMuch("too many hosts enrol at once", time.Minute)
		}
		b = &bucket{left: s.perMinute, at: now}
		s.buckets[addr] = b
	}
	s.fill(b, now)
	if b.left < 1 {
		return tooMuch("too many tries from this address", time.Duration((1-b.left)/s.perMinute*float64(time.Minute)))
	}
	b.left--
	return nil
}

// succeeded gives the try back.
func (s *strangers) succeeded(addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.buckets[addr]; b != nil {
		b.left = min(b.left+1, s.perMinute)
	}
}

func (s *strangers) forget(now time.Time) {
	if len(s.buckets) < bucketsMax {
		return
	}
	for addr, b := range s.buckets {
		if s.fill(b, now); b.left >= s.perMinute {
			delete(s.buckets, addr)
		}
	}
}
