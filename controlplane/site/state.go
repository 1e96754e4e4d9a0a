package site

import (
	"fmt"

	"chom.dev/controlplane/organization"
)

// State is a site's life as a person sees it; package comment draws it.
type State uint8

// States.
const (
	StateUnknown State = iota
	StateCreating
	StateActive
	StateUpdating
	StateSuspended
	StateTrashed
	StateDeleting
	StateFailed
)

// progress is how far the newest task is.
type progress uint8

const (
	onItsWay progress = iota // queued, offered, running, or lost from sight
	arrived
	broken // failed, canceled, timed out
)

// derive gives the state, and the problem that is shown with it. Nothing is taken for good that was not measured: ACTIVE
// needs an answer of the home page.
func derive(w Wanted, o *Observed, last progress, lastProblem string) (State, string) {
	switch w.Phase {
	case Absent:
		return StateDeleting, lastProblem
	case Trashed:
		return StateTrashed, problemOf(w, o, last, lastProblem)
	}
	if problem := ahead(w, o); problem != "" {
		return StateFailed, problem
	}
	reached := o != nil && o.Generation >= w.Generation
	switch {
	case !reached && last == onItsWay && (o == nil || o.Generation == 0):
		return StateCreating, ""
	case !reached && last == onItsWay:
		return StateUpdating, ""
	}
	if problem := problemOf(w, o, last, lastProblem); problem != "" {
		return StateFailed, problem
	}
	if w.onHost() == Suspended {
		return StateSuspended, ""
	}
	return StateActive, ""
}

// problemOf says how what was measured differs from what is wanted; empty when it does not, and while a change is on its way.
func problemOf(w Wanted, o *Observed, last progress, lastProblem string) string {
	if problem := ahead(w, o); problem != "" {
		return problem
	}
	if o == nil || o.Generation < w.Generation {
		switch {
		case last == onItsWay:
			return ""
		case lastProblem != "":
			return lastProblem
		case o == nil:
			return "the host has not reported it yet"
		}
		return fmt.Sprintf("the host holds generation %d, older than %d", o.Generation, w.Generation)
	}
	switch {
	case o.Problem != "":
		return o.Problem
	case o.Phase != w.onHost():
		return fmt.Sprintf("the host reports it as %s", orNothing(o.Phase))
	case w.onHost() == Active && o.HTTPStatus == 0:
		return "the home page did not answer"
	case w.onHost() == Active && o.HTTPStatus >= 500:
		return fmt.Sprintf("the home page answered with status %d", o.HTTPStatus)
	}
	return ""
}

// ahead is the case of a control plane that forgot: its database was restored from before the host's generation. Nothing
// follows by itself; the next change gets a generation above the host's.
func ahead(w Wanted, o *Observed) string {
	if o == nil || o.Generation <= w.Generation {
		return ""
	}
	return fmt.Sprintf("the host holds generation %d, newer than %d: the control plane has lost changes; check the site, then change it once to take the host along", o.Generation, w.Generation)
}

func orNothing(p Phase) string {
	if p == "" {
		return "nothing"
	}
	return string(p)
}

// renew numbers a new wanted state. Whether it is frozen is looked up anew for each.
func (s *Site) renew() {
	s.Wanted.Frozen = s.owner != organization.Active
	s.Wanted.Generation, s.failures = nextGeneration(s), 0
}

// nextGeneration is above all that was ever wanted or seen.
func nextGeneration(s *Site) uint64 {
	next := s.Wanted.Generation
	if s.Observed != nil {
		next = max(next, s.Observed.Generation)
	}
	return next + 1
}
