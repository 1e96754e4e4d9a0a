package main

import (
	"context"
	"time"

	"connectrpc.com/connect"
)

// retried repeats a call that is safe to repeat while the control plane does not answer, a few times within some seconds.
func retried[T any](ctx context.Context, call func() (T, error)) (T, error) {
	var answer T
	var err error
	for _, pause := range []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second} {
		select {
		case <-ctx.Done():
			return answer, ctx.Err()
		case <-time.After(pause):
		}
		if answer, err = call(); connect.CodeOf(err) != connect.CodeUnavailable {
			return answer, err
		}
	}
	return answer, err
}
