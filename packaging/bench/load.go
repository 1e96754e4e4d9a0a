package main

import (
	"context"
	"errors"
	"sync"
	"time"
)

// offer calls do at a steady rate, count times, whether the former calls have
// ended or not, and returns what they gave once all have ended. One that waits
// because others are slow thus counts as slow itself.
func offer[T any](ctx context.Context, rate, count int, do func(context.Context) (T, error)) ([]T, error) {
	gap := time.Second / time.Duration(rate)
	begin := time.Now()
	results := make([]T, count)
	errs := make([]error, count)
	var calls sync.WaitGroup
	for i := range count {
		select {
		case <-ctx.Done():
			calls.Wait()
			return nil, ctx.Err()
		case <-time.After(time.Until(begin.Add(time.Duration(i) * gap))):
		}
		calls.Go(func() { results[i], errs[i] = do(ctx) })
	}
	calls.Wait()
	return results, errors.Join(errs...)
}
