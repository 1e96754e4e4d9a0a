// Package fault holds the few ways a request can fail, in words that a caller
// understands. Nouns return faults; only a door (api, link) turns a kind into
// a code of its protocol. Every error that is not a fault is a bug or a broken
// machine: the door hides its text and logs it.
//
// The text of a fault is shown to the caller as it is. It never holds secrets,
// SQL, or anything that another organization owns.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind is one of the ways a request can fail.
type Kind uint8

// The kinds. Internal is what KindOf says of an error that is no fault.
const (
	KindInternal        Kind = iota // not the caller's doing; its text is not for the caller
	KindInvalid                     // a field breaks a rule; asking again changes nothing
	KindUnauthenticated             // who asks is not known
	KindDenied                      // known, but may not
	KindStale                       // known and may, but must prove once more that it is them
	KindNotFound                    // does not exist, or belongs to somebody else: both look the same
	KindConflict                    // the thing is in another state than the request needs
	KindChanged                     // somebody else changed the thing since the caller looked at it
	KindLimited                     // asked too often; works later
	KindUnavailable                 // works later; the request may be sent again
)

func (k Kind) String() string {
	switch k {
	case KindInvalid:
		return "invalid"
	case KindUnauthenticated:
		return "unauthenticated"
	case KindDenied:
		return "denied"
	case KindStale:
		return "stale"
	case KindNotFound:
		return "not found"
	case KindConflict:
		return "conflict"
	case KindChanged:
		return "changed"
	case KindLimited:
		return "limited"
	case KindUnavailable:
		return "unavailable"
	default:
		return "internal"
	}
}

// Fault is a failed request. Two faults are the same for errors.Is when the
// target is the very same value, so a package may declare
//
//	var ErrNameTaken = fault.Conflict("this name is taken")
//
// and callers may ask errors.Is(err, site.ErrNameTaken).
type Fault struct {
	kind  Kind
	field string
	text  string
	after time.Duration
	cause error
}

// Invalid says that a field of the request breaks a rule. Field is its name in
// the proto message; rule is the rule in words ("must start with a letter").
func Invalid(field, rule string) *Fault {
	return &Fault{kind: KindInvalid, field: field, text: rule}
}

// Unauthenticated says that the caller did not prove who they are.
func Unauthenticated(text string) *Fault { return &Fault{kind: KindUnauthenticated, text: text} }

// Denied says that the caller is known but may not do this.
func Denied(text string) *Fault { return &Fault{kind: KindDenied, text: text} }

// Stale says that the caller may do this, but must first prove anew who they are (step-up).
func Stale(text string) *Fault { return &Fault{kind: KindStale, text: text} }

// NotFound says that a thing does not exist for this caller. Thing is its
// noun: "site", "server".
func NotFound(thing string) *Fault {
	return &Fault{kind: KindNotFound, text: thing + " not found"}
}

// Conflict says that the thing is in a state in which this can't be done.
func Conflict(text string) *Fault { return &Fault{kind: KindConflict, text: text} }

// Changed says that the thing is not any more what the caller saw when they decided.
func Changed(text string) *Fault { return &Fault{kind: KindChanged, text: text} }

// Limited says that the caller asked too often. After is how long to wait.
func Limited(text string, after time.Duration) *Fault {
	return &Fault{kind: KindLimited, text: text, after: after}
}

// Unavailable says that the request may succeed later. After is how long to
// wait at least, 0 when not known; cause may be nil and is not shown.
func Unavailable(text string, after time.Duration, cause error) *Fault {
	return &Fault{kind: KindUnavailable, text: text, after: after, cause: cause}
}

// Error gives the words for the caller.
func (f *Fault) Error() string {
	if f.field != "" {
		return fmt.Sprintf("%s: %s", f.field, f.text)
	}
	return f.text
}

// Unwrap gives the cause, which only logs may show.
func (f *Fault) Unwrap() error { return f.cause }

// Kind is the way the request failed.
func (f *Fault) Kind() Kind { return f.kind }

// Field is the offending field of an Invalid fault, else empty.
func (f *Fault) Field() string { return f.field }

// Rule is the text without the field's name.
func (f *Fault) Rule() string { return f.text }

// RetryAfter is how long to wait before asking again; 0 when not known.
func (f *Fault) RetryAfter() time.Duration { return f.after }

// KindOf gives the kind of the outermost fault in err's chain, KindInternal
// when there is none (also for nil).
func KindOf(err error) Kind {
	if f, ok := Of(err); ok {
		return f.kind
	}
	return KindInternal
}

// Of gives the outermost fault in err's chain.
func Of(err error) (*Fault, bool) {
	var f *Fault
	ok := errors.As(err, &f)
	return f, ok
}
