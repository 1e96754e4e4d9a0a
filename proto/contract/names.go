// Package contract holds the hand-written promises between the control plane
// and the agents: the typed names in this half, the signing of orders in the
// other. It knows nothing of how either side stores or carries them out.
//
// A typed name is parsed at the door of the control plane and again at the
// agent. Its content cannot be set in any other way: the fields are
// unexported, the zero value is invalid and every Parse function is the only
// way in. Whoever receives a Domain or a Handle as an argument may therefore
// put it into a path, a unit name or a directive without asking again.
//
// All names are comparable (usable as map keys and with ==), print as their
// text, and travel through JSON and database/sql with the same check on the
// way in.
package contract

import (
	"database/sql/driver"
	"errors"
	"fmt"
)

// InvalidError says that a text is not a value of the wanted type. It never
// carries the text itself: that is hostile input and ends up in logs.
type InvalidError struct {
	Kind string // what was to be parsed, e.g. "domain"
	Rule string // the rule that the text breaks, e.g. "must hold at least one dot"
}

func (e *InvalidError) Error() string { return e.Kind + ": " + e.Rule }

// RuleOf is the broken rule in an error of a Parse function, for those who name
// the field themselves.
func RuleOf(err error) string {
	var wrong *InvalidError
	if errors.As(err, &wrong) {
		return wrong.Rule
	}
	return err.Error()
}

func invalid(kind, rule string) error { return &InvalidError{Kind: kind, Rule: rule} }

// rule is what distinguishes one typed name from another: its name in errors
// and the check that returns the canonical text.
type rule interface {
	parse(string) (string, error)
}

// name is the shared body of all typed names.
type name[R rule] struct{ text string }

// String gives the canonical text, "" for the zero value.
func (n name[R]) String() string { return n.text }

// IsZero reports whether nothing was parsed into the value. The zero value is
// never valid; encoding/json leaves it out under "omitzero".
func (n name[R]) IsZero() bool { return n.text == "" }

// MarshalText gives the canonical text, for JSON and friends.
func (n name[R]) MarshalText() ([]byte, error) { return []byte(n.text), nil }

// UnmarshalText applies the same check as the Parse function of the type.
func (n *name[R]) UnmarshalText(b []byte) error { return n.set(string(b)) }

// Value gives the canonical text to database/sql; the zero value is refused,
// so that a forgotten field can't be stored.
func (n name[R]) Value() (driver.Value, error) {
	if n.text == "" {
		var r R
		_, err := r.parse("")
		return nil, fmt.Errorf("store empty name: %w", err)
	}
	return n.text, nil
}

// Scan reads the text from database/sql and checks it.
func (n *name[R]) Scan(src any) error {
	switch v := src.(type) {
	case string:
		return n.set(v)
	case []byte:
		return n.set(string(v))
	default:
		return fmt.Errorf("scan name: unexpected type %T", src)
	}
}

func (n *name[R]) set(s string) error {
	var r R
	text, err := r.parse(s)
	if err != nil {
		return err
	}
	n.text = text
	return nil
}

// only reports whether every byte of s is accepted.
func only(s string, accept func(c byte) bool) bool {
	for i := 0; i < len(s); i++ {
		if !accept(s[i]) {
			return false
		}
	}
	return true
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
