package task

import (
	"testing"
	"time"

	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

func TestNextTry(t *testing.T) {
	ended := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	failed := Task{State: Failed, Ended: ended}
	never := &orderv1.Result{Outcome: orderv1.Outcome_OUTCOME_FAILED, Permanent: true}
	for name, test := range map[string]struct {
		task     Task
		result   *orderv1.Result
		failures int
		atMost   time.Duration
	}{
		"the first failure":                     {failed, nil, 1, time.Minute},
		"the second":                            {failed, nil, 2, 2 * time.Minute},
		"the third":                             {failed, nil, 3, 4 * time.Minute},
		"a fault that lasts":                    {failed, nil, 19, 4 * time.Minute},
		"one that somebody has to look at":      {failed, nil, 20, time.Hour},
		"one that nobody looked at for a year":  {failed, nil, 10_000, time.Hour},
		"a deadline that passed":                {Task{State: TimedOut, Ended: ended}, nil, 1, time.Minute},
		"an error that no try can heal":         {failed, never, 1, time.Hour},
		"the same once more":                    {failed, never, 2, 2 * time.Hour},
		"the same for long":                     {failed, never, 10_000, 24 * time.Hour},
		"somebody stopped it":                   {Task{State: Canceled, Ended: ended}, nil, 1, time.Hour},
		"no failure was counted, which is none": {failed, nil, 0, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			seen := map[time.Time]bool{}
			for range 100 {
				at := NextTry(test.task, test.result, test.failures)
				seen[at] = true
				if rest := at.Sub(ended); rest > test.atMost || rest < test.atMost*3/4 {
					t.Fatalf("it rests for %s, wanted up to a quarter less than %s", rest, test.atMost)
				}
				if at.Sub(ended) > LongestRest {
					t.Fatalf("%s is longer than the longest rest", at.Sub(ended))
				}
			}
			if len(seen) < 50 {
				t.Errorf("a hundred that failed together are tried again at %d moments", len(seen))
			}
		})
	}
}
