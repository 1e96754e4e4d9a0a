package api

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/repeat"
	"chom.dev/controlplane/rest"
)

const (
	keyHeader = "Idempotency-Key"
	// replayedHeader marks an answer that is the first one's.
	replayedHeader = "Idempotency-Replayed"
)

// requestIDField is a key within the request, where the noun itself keeps that a repeat has no second effect: it can then
// answer a repeat even when the first answer was lost. The header stands for it.
const requestIDField protoreflect.Name = "request_id"

var keyPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$`)

// once gives a repeat of a call with a key the first one's answer. It comes after all decisions: who has lost a right since
// does not get the answer either. Methods without an effect need no key and ignore it.
type once struct {
	*door
	methods map[string]protoreflect.MethodDescriptor
}

// WrapUnary implements connect.Interceptor.
func (o once) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		keyed, err := o.keyed(ctx, request)
		if err != nil {
			return nil, err
		}
		if keyed == nil {
			return next(ctx, request)
		}
		if past, err := o.repeats.Find(ctx, *keyed); past != nil || err != nil {
			return o.again(ctx, request, *keyed, past, err)
		}
		under, first := o.repeats.Begin(ctx, *keyed)
		answer, err := next(under, request)
		if errors.Is(err, repeat.ErrRepeated) {
			past, err := o.repeats.Find(ctx, *keyed)
			return o.again(ctx, request, *keyed, past, err)
		}
		if had := first.End(); had || err == nil {
			o.keep(ctx, *keyed, answer, err)
		}
		return answer, err
	}
}

// WrapStreamingHandler implements connect.Interceptor. Streams have no effect.
func (o once) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// WrapStreamingClient implements connect.Interceptor. It is for clients, which this is not.
func (o once) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// keyed is a call whose key is kept here; nil for one without a key, or whose noun keeps it.
func (o once) keyed(ctx context.Context, request connect.AnyRequest) (*repeat.Call, error) {
	key := strings.Trim(strings.Join(request.Header().Values(keyHeader), ","), `"`)
	method := o.methods[request.Spec().Procedure]
	message, ok := request.Any().(proto.Message)
	if key == "" || !ok || method == nil || rest.ReadOnly(method) {
		return nil, nil
	}
	c := callOf(ctx)
	switch {
	case !keyPattern.MatchString(key):
		return nil, fault.Invalid(keyHeader, "must be up to 64 letters, digits and _ . : - and begin with a letter or digit")
	case c.caller == nil:
		return nil, fault.Invalid(keyHeader, "only calls of somebody who is known can have one")
	}
	fields := message.ProtoReflect()
	if field := fields.Descriptor().Fields().ByName(requestIDField); field != nil {
		if fields.Has(field) && fields.Get(field).String() != key {
			return nil, fault.Invalid(string(requestIDField), "differs from the header "+keyHeader)
		}
		fields.Set(field, protoreflect.ValueOfString(key))
		return nil, nil
	}
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		return nil, err
	}
	return &repeat.Call{Caller: whose(c.caller), Key: key, Request: o.repeats.Seal(request.Spec().Procedure, text)}, nil
}

// whose are the keys of a caller.
func whose(c *account.Caller) string {
	switch {
	case c.Impersonator != "":
		return "account " + c.Impersonator + " as " + c.ID
	case c.ID != "":
		return "account " + c.ID
	}
	return "token " + c.Token
}

// again answers a repeat, once the first call has ended.
func (o once) again(ctx context.Context, request connect.AnyRequest, call repeat.Call, past *repeat.Past, err error) (connect.AnyResponse, error) {
	for pause := 10 * time.Millisecond; err == nil && past != nil && past.Outcome == repeat.Unknown; pause = min(2*pause, 500*time.Millisecond) {
		if time.Since(past.Began) > unaryTimeout {
			return nil, errLost
		}
		select {
		case <-ctx.Done():
			return nil, errRunning
		case <-time.After(pause):
		}
		past, err = o.repeats.Find(ctx, call)
	}
	switch {
	case err != nil:
		return nil, err
	case past == nil:
		return nil, errRunning // it went away in this moment: its day is over
	case past.Outcome == repeat.Secret:
		return nil, errShown
	case past.Outcome == repeat.Failed:
		return nil, failure(past.Answer)
	}
	message := dynamicpb.NewMessage(o.methods[request.Spec().Procedure].Output())
	if err := proto.Unmarshal(past.Answer, message); err != nil {
		return nil, err
	}
	answer := connect.NewResponse(message)
	answer.Header().Set(replayedHeader, "true")
	return answer, nil
}

var (
	errRunning = fault.Unavailable("the first call with this key runs still", time.Second, nil)
	errLost    = fault.Conflict("a call with this key took effect, but its answer was lost: look at what it was to change, and use another key for another call")
	errShown   = fault.Conflict("a call with this key took effect; its answer held a secret, which is shown once and kept nowhere")
)

// keep writes what became of a call. If that fails, the call has succeeded nevertheless: a repeat hears that its answer is
// lost.
func (o once) keep(ctx context.Context, call repeat.Call, answer connect.AnyResponse, failed error) {
	outcome, text, err := repeat.Secret, []byte(nil), error(nil)
	switch {
	case failed != nil && !lasting(failed):
		return // nobody knows how much of it has happened
	case failed != nil:
		outcome = repeat.Failed
		text, err = textOf(failed)
	case !callOf(ctx).rule.secret:
		outcome = repeat.Answered
		message, _ := answer.Any().(proto.Message)
		text, err = proto.Marshal(message)
	}
	if err == nil {
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepWithin)
		defer cancel()
		err = o.repeats.Keep(within, call, outcome, text)
	}
	if err != nil {
		o.log.LogAttrs(ctx, slog.LevelError, "the answer of a call with a key is lost", slog.String("request", callOf(ctx).id), slog.Any("err", err))
	}
}

const keepWithin = 5 * time.Second // the caller waits for it

// lasting reports whether asking again would fail in the same way.
func lasting(err error) bool {
	switch fault.KindOf(err) {
	case fault.KindInternal, fault.KindUnavailable, fault.KindLimited:
		return false
	}
	return true
}

// textOf is an error as it is kept; failure is its reverse.
func textOf(failed error) ([]byte, error) {
	shown, _ := toConnect(failed, "")
	kept := &status.Status{Code: int32(shown.Code()), Message: shown.Message()}
	for _, detail := range shown.Details() {
		kept.Details = append(kept.Details, &anypb.Any{TypeUrl: "type.googleapis.com/" + detail.Type(), Value: detail.Bytes()})
	}
	return proto.Marshal(kept)
}

func failure(text []byte) error {
	var kept status.Status
	if err := proto.Unmarshal(text, &kept); err != nil {
		return err
	}
	shown := connect.NewError(connect.Code(kept.GetCode()), errors.New(kept.GetMessage()))
	for _, detail := range kept.GetDetails() {
		if message, err := detail.UnmarshalNew(); err == nil {
			attach(shown, message)
		}
	}
	shown.Meta().Set(replayedHeader, "true")
	return shown
}
