package api

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"chom.dev/controlplane/fault"
)

// againEvery is how often a stream's caller is looked at anew: whoever was signed out, whose token was revoked, or who lost a
// right is cut off within 5 seconds.
const againEvery = 4 * time.Second

// Why a stream ends early.
var (
	errOver    = fault.Unauthenticated("the session or the token that began this is over")
	errChanged = fault.Unavailable("what you reach has changed: call again", time.Second, nil)
)

// again repeats, for as long as a stream lasts, what was decided when it began.
type again struct{ door *door }

// WrapUnary implements connect.Interceptor: a call with one answer is over soon.
func (a again) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc { return next }

// WrapStreamingClient implements connect.Interceptor. It is for clients, which this is not.
func (a again) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (a again) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		ctx, cut := context.WithCancelCause(ctx)
		conned := &rememberedConn{StreamingHandlerConn: conn}
		var watching sync.WaitGroup
		defer watching.Wait()
		defer cut(nil)
		watching.Go(func() {
			tick := time.NewTicker(againEvery)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					if err := a.decide(ctx, conned.request.Load()); err != nil {
						cut(err)
						return
					}
				}
			}
		})
		err := next(ctx, conned)
		if refused, ok := fault.Of(context.Cause(ctx)); ok && err != nil {
			return refused
		}
		return err
	}
}

// decide says why a stream may not go on. A database that is away for a moment decides nothing: the stream gets nothing from
// it either.
func (a again) decide(ctx context.Context, request *proto.Message) error {
	c := callOf(ctx)
	if c == nil || request == nil || c.rule.who == anybody {
		return nil // it was turned away, has not asked yet, or needs nobody's rights
	}
	caller, err := c.recognize(ctx)
	switch {
	case fault.KindOf(err) == fault.KindUnauthenticated, err == nil && caller == nil:
		return errOver
	case err != nil:
		return nil //nolint:nilerr // see above
	}
	if err := decideCaller(c.rule, caller, time.Now()); err != nil && !errors.Is(err, errStale) {
		return err
	}
	if c.rule.who != inOrganization {
		return nil
	}
	now, err := a.door.standing(ctx, c.rule, caller, *request)
	switch {
	case err != nil:
		return nil //nolint:nilerr // see above
	case now.refused != nil:
		return now.refused
	case (now.reach == nil) != (c.reach == nil) || !slices.Equal(now.reach, c.reach):
		return errChanged
	}
	return nil
}

// rememberedConn keeps the request that a stream began with.
type rememberedConn struct {
	connect.StreamingHandlerConn
	request atomic.Pointer[proto.Message]
}

func (c *rememberedConn) Receive(message any) error {
	if err := c.StreamingHandlerConn.Receive(message); err != nil {
		return err
	}
	if request, ok := message.(proto.Message); ok {
		c.request.Store(&request)
	}
	return nil
}
