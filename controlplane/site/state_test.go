package site

import "testing"

func TestDerive(t *testing.T) {
	w := func(phase Phase, generation uint64) Wanted { return Wanted{Phase: phase, Generation: generation} }
	o := func(phase Phase, generation uint64, status uint32) *Observed {
		return &Observed{Phase: phase, Generation: generation, HTTPStatus: status}
	}
	frozen := func(phase Phase, generation uint64) Wanted {
		return Wanted{Phase: phase, Generation: generation, Frozen: true}
	}
	sick := o(Active, 1, 200)
	sick.Problem = "the database is gone"
	for name, test := range map[string]struct {
		wanted      Wanted
		observed    *Observed
		last        progress
		lastProblem string
		state       State
		problem     string
	}{
		"new":                                {w(Active, 1), nil, onItsWay, "", StateCreating, ""},
		"new, and its first try failed":      {w(Active, 1), nil, broken, "the disk is full", StateFailed, "the disk is full"},
		"served":                             {w(Active, 1), o(Active, 1, 200), arrived, "", StateActive, ""},
		"served behind a login":              {w(Active, 1), o(Active, 1, 401), arrived, "", StateActive, ""},
		"done, but its page does not answer": {w(Active, 1), o(Active, 1, 0), arrived, "", StateFailed, "the home page did not answer"},
		"done, but its page is broken":       {w(Active, 1), o(Active, 1, 500), arrived, "", StateFailed, "the home page answered with status 500"},
		"done, but its host complains":       {w(Active, 1), sick, arrived, "", StateFailed, "the database is gone"},
		"done, but found suspended":          {w(Active, 1), o(Suspended, 1, 503), arrived, "", StateFailed, "the host reports it as suspended"},
		"done, but never measured":           {w(Active, 1), nil, arrived, "", StateFailed, "the host has not reported it yet"},
		"changed":                            {w(Active, 2), o(Active, 1, 200), onItsWay, "", StateUpdating, ""},
		"changed, and that failed":           {w(Active, 2), o(Active, 1, 200), broken, "nginx refused it", StateFailed, "nginx refused it"},
		"changed, and the host is behind":    {w(Active, 2), o(Active, 1, 200), arrived, "", StateFailed, "the host holds generation 1, older than 2"},
		"suspended":                          {w(Suspended, 2), o(Suspended, 2, 503), arrived, "", StateSuspended, ""},
		"being suspended":                    {w(Suspended, 2), o(Active, 1, 200), onItsWay, "", StateUpdating, ""},
		"frozen":                             {frozen(Active, 2), o(Suspended, 2, 503), arrived, "", StateSuspended, ""},
		"frozen, but found served":           {frozen(Active, 2), o(Active, 2, 200), arrived, "", StateFailed, "the host reports it as active"},
		"being frozen":                       {frozen(Active, 2), o(Active, 1, 200), onItsWay, "", StateUpdating, ""},
		"frozen when it was suspended":       {frozen(Suspended, 3), o(Suspended, 3, 503), arrived, "", StateSuspended, ""},
		"in the trash":                       {w(Trashed, 3), o(Trashed, 3, 0), arrived, "", StateTrashed, ""},
		"on its way to the trash":            {w(Trashed, 3), o(Active, 2, 200), onItsWay, "", StateTrashed, ""},
		"not quite in the trash":             {w(Trashed, 3), o(Active, 2, 200), broken, "the disk is full", StateTrashed, "the disk is full"},
		"being removed":                      {w(Absent, 4), o(Trashed, 3, 0), onItsWay, "", StateDeleting, ""},
		"cannot be removed":                  {w(Absent, 4), o(Trashed, 3, 0), broken, "the disk is full", StateDeleting, "the disk is full"},
		"a task that was measured since":     {w(Active, 1), o(Active, 1, 200), broken, "the link broke", StateActive, ""},
	} {
		t.Run(name, func(t *testing.T) {
			state, problem := derive(test.wanted, test.observed, test.last, test.lastProblem)
			if state != test.state || problem != test.problem {
				t.Errorf("got %d %q, want %d %q", state, problem, test.state, test.problem)
			}
		})
	}
}
