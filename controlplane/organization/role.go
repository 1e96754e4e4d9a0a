package organization

import (
	"fmt"

	"chom.dev/controlplane/fault"
)

// Role is what a member may do. Each may do what the ones after it may.
type Role string

// Roles, the mightiest first.
const (
	Owner  Role = "owner"
	Admin  Role = "admin"
	Member Role = "member"
	Viewer Role = "viewer"
)

// rank grows with what a role may do; 0 for no role at all.
func (r Role) rank() int {
	switch r {
	case Owner:
		return 4
	case Admin:
		return 3
	case Member:
		return 2
	case Viewer:
		return 1
	}
	return 0
}

// AtLeast reports whether the role may do what another one may. No role may do nothing.
func (r Role) AtLeast(other Role) bool { return other.rank() > 0 && r.rank() >= other.rank() }

// bindable reports whether somebody with the role can be held to some sites.
func (r Role) bindable() bool { return r == Member || r == Viewer }

// MayGive refuses somebody with a role who hands out another one.
func (r Role) MayGive(other Role) error {
	switch {
	case !r.AtLeast(Admin):
		return errNoAdmin
	case !r.AtLeast(other):
		return fault.Denied(fmt.Sprintf("your role here is %s: you cannot make anybody %s", r, other))
	}
	return nil
}

// mayChange refuses somebody with a role who changes or removes a member that has another one.
func (r Role) mayChange(has Role) error {
	switch {
	case !r.AtLeast(Admin):
		return errNoAdmin
	case !r.AtLeast(has):
		return fault.Denied(fmt.Sprintf("your role here is %s: you cannot change an %s", r, has))
	}
	return nil
}

// errNoAdmin is for who lost their role between the door and here.
var errNoAdmin = fault.Denied("this needs the role admin in the organization")
