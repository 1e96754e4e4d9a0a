package swarm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/agent/swarm/ledger"
	"chom.dev/agent/task"
)

// host is what orders change; it outlives the agent's processes as a real
// server does. An effect is named by its task and step.
type host struct {
	mu      sync.Mutex
	effects map[string]bool
	phases  map[string]sitev1.Phase // by site
	types   map[string]string       // likewise
	meter   meter
}

func newHost() *host {
	return &host{effects: map[string]bool{}, phases: map[string]sitev1.Phase{}, types: map[string]string{}}
}

func (h *host) has(effect string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.effects[effect]
}

// siteSteps are those of the fake site orders; about as many as of real ones.
var siteSteps = []string{"user", "tree", "database", "php", "nginx", "probe"}

// stepsOf names an order's steps.
func stepsOf(o task.Order) []string {
	if o.Kind != task.Noop {
		return siteSteps
	}
	var names []string
	for i := range o.Message.GetNoop().GetSteps() {
		names = append(names, fmt.Sprintf("noop-%d", i+1))
	}
	return names
}

func effectsOf(o task.Order) int { return len(stepsOf(o)) }

// handlers do every kind on the fake host, for one life of the agent.
func (a *agent) handlers(l *life) map[task.Kind]task.Handler {
	h := task.HandlerFunc(func(o task.Order) (task.Plan, error) {
		var plan task.Plan
		for _, name := range stepsOf(o) {
			effect := o.Task.String() + "/" + name
			plan.Steps = append(plan.Steps, task.Step{
				Name:  name,
				Probe: func(context.Context) (bool, string, error) { return a.host.has(effect), "", nil },
				Do:    func(ctx context.Context, _ *task.Log) error { return a.do(ctx, l, o, name, effect) },
			})
		}
		if !o.Site.ID.IsZero() {
			plan.Observe = func(context.Context) (*sitev1.ObservedState, error) { return a.host.observe(o.Site), nil }
		}
		return plan, nil
	})
	return map[task.Kind]task.Handler{task.Noop: h, task.PrepareServer: h, task.ConvergeSite: h, task.SiteLogin: h}
}

// do takes its time and has its effect, unless the process is killed before.
func (a *agent) do(ctx context.Context, l *life, o task.Order, name, effect string) error {
	takes := o.Message.GetNoop().GetStepDuration().AsDuration()
	if longest := a.swarm.cfg.StepTime; o.Kind != task.Noop && longest > 0 {
		takes = rand.N(longest)
	}
	if !sleep(ctx, takes) {
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return context.Canceled
	}
	a.host.mu.Lock()
	a.host.effects[effect] = true
	if d := o.Message.GetConvergeSite().GetDesired(); d != nil {
		a.host.phases[d.SiteId], a.host.types[d.SiteId] = d.Phase, d.Type
	}
	a.host.mu.Unlock()
	e := entryOf(o)
	e.Agent, e.Life, e.What, e.Name = a.id.Server.String(), l.number, ledger.Effect, name
	a.swarm.cfg.Ledger.Append(e)
	a.swarm.effects.Add(1)
	return nil
}

// observe measures a fake site.
func (h *host) observe(s task.Site) *sitev1.ObservedState {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := &sitev1.ObservedState{Phase: h.phases[s.ID.String()]}
	switch st.Phase {
	case sitev1.Phase_PHASE_ACTIVE:
		st.HttpStatus, st.PageTitle = 200, s.Desired.GetSettings()["title"]
	case sitev1.Phase_PHASE_SUSPENDED:
		st.HttpStatus = 503
	}
	return st
}
