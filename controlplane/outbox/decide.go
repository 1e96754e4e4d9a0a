package outbox

import (
	"errors"
	"strings"
	"time"
	"unicode"
)

// Permanent marks a failure that trying again cannot heal: the item is dead.
func Permanent(err error) error { return &permanent{err} }

type permanent struct{ error }

func (p *permanent) Unwrap() error { return p.error }

// IsPermanent says whether a failure was marked so.
func IsPermanent(err error) bool {
	var never *permanent
	return errors.As(err, &never)
}

// Later puts an item off without counting the try: nothing was sent, because it is not the time.
func Later(err error, after time.Duration) error { return &later{err, after} }

type later struct {
	error
	after time.Duration
}

func (l *later) Unwrap() error { return l.error }

// Backoff is the pause between tries: First after the first, doubled with each, never more than Most.
type Backoff struct{ First, Most time.Duration }

// after is the pause after so many tries. Jitter, 0 to 1, takes away up to a third: what failed together should not come
// back together.
func (b Backoff) after(tries int, jitter float64) time.Duration {
	pause := b.Most
	if doublings := tries - 1; doublings < 30 && b.First<<max(doublings, 0) < b.Most {
		pause = b.First << max(doublings, 0)
	}
	return pause - time.Duration(jitter*float64(pause)/3)
}

// decision is what becomes of an item after a try.
type decision struct {
	state   State
	due     time.Time // of a waiting one
	counted bool      // whether the try counts as one
	text    string    // why it failed
}

// decide says what becomes of an item whose try ended with err. Nothing dies of old age by a clock that is not to be trusted.
func decide(item Item, err error, b Backoff, now time.Time, trusted bool, jitter float64) decision {
	var notNow *later
	switch {
	case err == nil:
		return decision{state: Sent, counted: true}
	case IsPermanent(err):
		return decision{state: Dead, counted: true, text: plain(err.Error())}
	case errors.As(err, &notNow):
		return decision{state: Waiting, due: now.Add(notNow.after), text: plain(err.Error())}
	}
	due := now.Add(b.after(item.Tries, jitter))
	if trusted && due.After(item.Deadline) {
		return decision{state: Dead, counted: true, text: plain(err.Error())}
	}
	return decision{state: Waiting, due: due, counted: true, text: plain(err.Error())}
}

const textMax = 300 // bytes; enough for what a mail server says

// plain is a text from outside as one short line.
func plain(s string) string {
	s = strings.ToValidUTF8(s, "")
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co):
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > textMax {
		s = strings.ToValidUTF8(s[:textMax], "")
	}
	return s
}
