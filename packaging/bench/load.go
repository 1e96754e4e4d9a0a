package main

import (
	"context"
	"sync"
	"time"
)

// offer calls do at a steady rate, count times, whether the former calls have
// ended or not, and returns what the good ones gave once all have ended. One
// that waits because others are slow thus counts as slow itself. What failed is
// told beside it; the error says that ctx ended.
func offer[T any](ctx context.Context, rate, count int, do func(context.Context) (T, error)) (good []T, failed []error, err error) {
	gap := time.Second / time.Duration(rate)
	begin := time.Now()
	var mu sync.Mutex
	var calls sync.WaitGroup
	for i := range count {
		if err = pause(ctx, time.Until(begin.Add(time.Duration(i)*gap))); err != nil {
			break
		}
		calls.Go(func() {
			got, err := do(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, err)
				return
			}
			good = append(good, got)
		})
	}
	calls.Wait()
	return good, failed, err
}
