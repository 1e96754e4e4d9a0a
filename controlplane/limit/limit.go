// Package limit bounds how often somebody may do something: so many times in any minute, counted by who or what asks. It
// knows neither requests nor accounts; a key is any text.
//
// # The window
//
// A minute is counted in slots of four seconds: what happened in the present slot and in the fifteen before it counts. So
// there are never more than Rate in any 60 seconds, whenever they begin, and a place is free again after 60 to 64. A bucket
// that refills (GCRA) would be smaller, but lets a sixth guess through twelve seconds after the first; a window that starts
// with the first call lets twice as many through around its end.
//
// What is refused is not counted: who asks too often loses nothing by it.
//
// # Where it is counted
//
// In the process, or, where several processes must agree and a restart must not forget, in Redis. When Redis does not answer,
// each process counts by itself until it does: nobody is let in unlimited, and nobody is locked out, so that neither
// guessing nor keeping people from their sites pays for whoever can disturb Redis. The price is that limits are then per
// process.
package limit

import (
	"context"
	"fmt"
	"math"
	"time"

	"chom.dev/controlplane/fault"
)

// Classes of what is limited.
const (
	// Auth is whatever could be guessed: passwords, codes, tokens.
	Auth = "auth"
	// API is all other calls.
	API = "api"
	// Session is API for a browser in which somebody is signed in: a page asks by itself whether what it shows is still so.
	Session = "session"
	// Operator is API for those who run the platform.
	Operator = "operator"
	// Sensitive is what destroys, shows secrets, sends mail or asks many others.
	Sensitive = "sensitive"
)

// Rates are how many are allowed in a minute, by class. A class that is missing allows nothing.
type Rates map[string]int

// DefaultRates are those of a control plane whose operator says nothing.
func DefaultRates() Rates { return Rates{Auth: 5, API: 60, Session: 600, Operator: 600, Sensitive: 2} }

// Limiter counts. It is safe for concurrent use.
type Limiter struct {
	rates Rates
	store store
}

// store counts in windows.
type store interface {
	// take counts one under each key if none of them has reached the rate, or only looks, and gives the fullest window.
	take(ctx context.Context, now time.Time, rate int, look bool, keys []string) window
}

// window is how full a key's minute is.
type window struct {
	used int
	// free is when the oldest of them leaves it.
	free time.Duration
}

// New counts in this process.
func New(rates Rates) *Limiter { return &Limiter{rates: rates, store: newMemory()} }

// Verdict is what became of a try.
type Verdict struct {
	Allowed bool
	// Limit is how many are allowed in a minute, Remaining how many of them are left.
	Limit, Remaining int
	// Reset is when the next place becomes free: what a refused caller must wait.
	Reset time.Duration
}

// Take counts a try under each key, if all of them have room, and gives the verdict of the fullest.
func (l *Limiter) Take(ctx context.Context, class string, keys ...string) Verdict {
	return l.take(ctx, class, false, keys)
}

// Look gives the verdict that Take would give, and counts nothing.
func (l *Limiter) Look(ctx context.Context, class string, keys ...string) Verdict {
	return l.take(ctx, class, true, keys)
}

func (l *Limiter) take(ctx context.Context, class string, look bool, keys []string) Verdict {
	rate := l.rates[class]
	if len(keys) == 0 {
		return Verdict{Allowed: true, Limit: rate, Remaining: rate}
	}
	named := make([]string, len(keys))
	for i, key := range keys {
		named[i] = class + " " + key // Auth and API of the same key are counted apart
	}
	w := l.store.take(ctx, time.Now(), rate, look, named)
	v := Verdict{Allowed: w.used < rate, Limit: rate, Remaining: max(rate-w.used, 0), Reset: w.free}
	if v.Allowed && !look {
		v.Remaining--
	}
	return v
}

// Err is the fault that refuses the try; nil for one that is allowed.
func (v Verdict) Err() error {
	if v.Allowed {
		return nil
	}
	return fault.Limited(fmt.Sprintf("this is allowed %d times a minute; wait %d seconds", v.Limit, Seconds(v.Reset)), v.Reset)
}

// Seconds is a time in whole seconds that is not too short to wait.
func Seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

// Allow counts a try of a class under a key, and gives the fault that refuses it when it is one too many.
func (l *Limiter) Allow(ctx context.Context, key, class string) error {
	return l.Take(ctx, class, key).Err()
}

// The minute, and the slots it is counted in. The slot that has begun makes it one more than fit into a minute.
const (
	slotFor = 4 * time.Second
	slots   = int(time.Minute/slotFor) + 1
)

func slotOf(t time.Time) int64 { return t.UnixNano() / int64(slotFor) }

// leaves is how long after now a slot leaves the window.
func leaves(slot int64, now time.Time) time.Duration {
	return time.Duration((slot+int64(slots))*int64(slotFor) - now.UnixNano())
}
