package task

import (
	"context"
	"fmt"
	"time"
)

// NoopHandler does nothing, in as many steps as asked for: the way to prove
// journal and link of a host without touching it.
func NoopHandler() Handler {
	return HandlerFunc(func(o Order) (Plan, error) {
		p := o.Message.GetNoop()
		var plan Plan
		for i := range p.GetSteps() {
			plan.Steps = append(plan.Steps, Step{
				Name: fmt.Sprintf("noop-%d", i+1),
				Do: func(ctx context.Context, log *Log) error {
					if d := p.GetStepDuration().AsDuration(); d > 0 {
						return pause(ctx, d)
					}
					return nil
				},
			})
		}
		return plan, nil
	})
}

// pause waits honestly.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
