package task

import (
	"context"
	"fmt"
	"regexp"

	orderv1 "chom.dev/proto/gen/chom/order/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
)

// Handler knows how one kind of order is done.
type Handler interface {
	// Plan says which steps the order takes. It decides and touches nothing:
	// it is called before the order is accepted, while the journal waits, and
	// again after each restart, when it must give the same steps under the same
	// names. An error refuses the order, with its text as the reason.
	Plan(Order) (Plan, error)
}

// HandlerFunc is a Handler without more to it.
type HandlerFunc func(Order) (Plan, error)

// Plan calls the function.
func (f HandlerFunc) Plan(o Order) (Plan, error) { return f(o) }

// Plan is what an order takes.
type Plan struct {
	// Steps are done in order, at most 1000.
	Steps []Step

	// Committed tells whether there is a way forward only: from then on neither a
	// wish to stop nor the end of its time keeps the attempt from its remaining
	// steps. What it says must be on disk: the steps may have run in a former
	// process. Nil is never.
	Committed func() bool

	// Abort takes back what the steps have begun, after one of them failed or the
	// attempt was told to stop. It may be nil, may run more than once, also in a
	// later process, and is not called once the plan is Committed. It gets 15 minutes.
	Abort func(context.Context, *Log) error

	// Observe measures the site at the end, whether the steps went well or
	// not. It may be nil. Site id, generation and time are filled in by the
	// engine. It gets 15 s.
	Observe func(context.Context) (*sitev1.ObservedState, error)

	// Report adds to the result of an order whose steps went well what they made.
	// It may be nil. What it says must be on disk: the steps may have run in a
	// former process. An error fails the attempt.
	Report func(*orderv1.Result) error

	// End lets go of what the steps kept for each other in this process. It may
	// be nil. It is called once, after the last of them: the attempt has ended
	// by then, or is left to the next process.
	End func()
}

// Step is the smallest resumable part of an order. Both functions may run
// more than once, also after the process was killed in the middle of either.
type Step struct {
	// Name is unique within the plan: a-z, 0-9 and hyphens, 63 characters.
	Name string

	// Probe tells whether the step's effect is there already, and what it
	// found. It changes nothing. It is asked before Do, and again after Do: a
	// step whose probe doesn't agree afterwards has failed. Nil means that
	// nobody can tell: Do then always runs, unless the journal says that it ended.
	Probe func(context.Context) (done bool, note string, err error)

	// Do makes the effect. An error is retried after a pause, up to 5 tries in
	// all, unless it is Permanent or the attempt's time is over. A cancelled
	// context means: leave things as they are and return soon.
	Do func(context.Context, *Log) error
}

// stepName is the pattern of chom.link.v1.StepStarted.
var stepName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// maxSteps is the limit of chom.link.v1.Accepted.
const maxSteps = 1000

func (p Plan) committed() bool { return p.Committed != nil && p.Committed() }

func (p Plan) check() error {
	if len(p.Steps) > maxSteps {
		return fmt.Errorf("plan has %d steps, more than %d", len(p.Steps), maxSteps)
	}
	seen := make(map[string]bool, len(p.Steps))
	for _, s := range p.Steps {
		switch {
		case !stepName.MatchString(s.Name):
			return fmt.Errorf("step name %q is not allowed", s.Name)
		case seen[s.Name]:
			return fmt.Errorf("step name %q is used twice", s.Name)
		case s.Do == nil:
			return fmt.Errorf("step %q does nothing", s.Name)
		}
		seen[s.Name] = true
	}
	return nil
}
