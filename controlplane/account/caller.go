package account

import (
	"slices"
	"time"
)

// Caller is who stands behind a call, and how far the proof that they showed reaches. What they may do is the least of what
// the proof allows and of what they are now: both are looked up anew for each call.
type Caller struct {
	// Account is the person; the zero Account for an organization's own token.
	Account
	// Session is the id of the browser's session; empty for a token.
	Session string
	// Token is the id of the API token; empty for a session.
	Token string
	// Scope is the most that the proof allows. A session has Manage.
	Scope Scope
	// Organization is the only one that the proof reaches into, a UUID; empty for all that the person belongs to.
	Organization string
	// Role is what an organization's own token may do in it: an organization.Role. Empty for people, whose role is looked up.
	Role string
	// Sites are the only ones that the proof reaches, UUIDs; nil for no such limit.
	Sites []string
	// SecondFactor says that a session was opened with one, or, for a token, that its person has one now.
	SecondFactor bool
	// FreshUntil is the end of the time in which a session counts as just proved (step-up); zero for never.
	FreshUntil time.Time
	// Impersonator is the operator's account that acts as Account in a session; empty when the person is there themselves.
	Impersonator string
	// From is where the call comes from.
	From Client
}

// Fresh reports whether the caller proved just now that they are still who signed in. A token cannot be asked again: one
// with the scope Manage, which only a fresh session can make, stands for it.
func (c *Caller) Fresh(now time.Time) bool {
	if c.Session == "" {
		return c.Scope >= Manage
	}
	return now.Before(c.FreshUntil)
}

// Reaches reports whether the proof reaches a site.
func (c *Caller) Reaches(site string) bool {
	return c.Sites == nil || slices.Contains(c.Sites, site)
}

// Scope is how far an API token reaches. Each holds the ones before it.
type Scope uint8

// Scopes. The zero value allows nothing.
const (
	NoScope Scope = iota
	Read          // look
	Deploy        // change sites
	Manage        // everything that its owner may do
)

var scopeNames = map[Scope]string{Read: "read", Deploy: "deploy", Manage: "manage"}

func (s Scope) String() string { return scopeNames[s] }

// ParseScope is the reverse of String; false for a word that is none.
func ParseScope(word string) (Scope, bool) {
	for scope, name := range scopeNames {
		if name == word {
			return scope, true
		}
	}
	return NoScope, false
}
