package rig

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	"chom.dev/proto/gen/chom/account/v1/accountv1connect"
	"chom.dev/proto/gen/chom/fleet/v1/fleetv1connect"
	"chom.dev/proto/gen/chom/organization/v1/organizationv1connect"
	"chom.dev/proto/gen/chom/site/v1/sitev1connect"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
	"chom.dev/proto/gen/chom/task/v1/taskv1connect"
	"chom.dev/proto/gen/chom/token/v1/tokenv1connect"
)

// Clients speak the public API with one token.
type Clients struct {
	Accounts      accountv1connect.AccountServiceClient
	Organizations organizationv1connect.OrganizationServiceClient
	Servers       fleetv1connect.ServerServiceClient
	Sites         sitev1connect.SiteServiceClient
	Tasks         taskv1connect.TaskServiceClient
	Tokens        tokenv1connect.TokenServiceClient
}

// NewClients makes clients for the people's listener at url. An empty token is
// a stranger's.
func NewClients(url, token string) *Clients {
	c := &http.Client{Transport: bearer{token, &http.Transport{
		MaxIdleConnsPerHost: 256, // the benchmarks keep many calls under way
		Protocols:           http2only(),
	}}}
	return &Clients{
		Accounts:      accountv1connect.NewAccountServiceClient(c, url),
		Organizations: organizationv1connect.NewOrganizationServiceClient(c, url),
		Servers:       fleetv1connect.NewServerServiceClient(c, url),
		Sites:         sitev1connect.NewSiteServiceClient(c, url),
		Tasks:         taskv1connect.NewTaskServiceClient(c, url),
		Tokens:        tokenv1connect.NewTokenServiceClient(c, url),
	}
}

func http2only() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

type bearer struct {
	token string
	next  http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if b.token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	return b.next.RoundTrip(r)
}

func (r *Rig) signIn(ctx context.Context, secret string) error {
	if secret == "" {
		if r.Token == "" {
			return errors.New("chomd printed no setup secret: its data directory is not new, and no token is known")
		}
		r.Clients = NewClients(r.URL(), r.Token)
		return nil
	}
	res, err := NewClients(r.URL(), "").Accounts.CreateFirstOperator(ctx, &accountv1.CreateFirstOperatorRequest{
		SetupSecret: secret, Email: "operator@chom.example",
	})
	if err != nil {
		return fmt.Errorf("create first operator: %w", err)
	}
	r.Token = res.GetToken()
	r.Clients = NewClients(r.URL(), r.Token)
	return nil
}

// Wait follows a task to its end. onChange, which may be nil, sees every
// message of the stream. A broken stream is taken up again: chomd may be
// killed meanwhile.
func (r *Rig) Wait(ctx context.Context, t *taskv1.Task, onChange func(*taskv1.WatchTaskResponse)) (*taskv1.Task, error) {
	var seen uint64
	for {
		stream, err := r.Tasks.WatchTask(ctx, &taskv1.WatchTaskRequest{
			OrganizationId: t.GetOrganizationId(), TaskId: t.GetId(), AfterLogSequence: seen,
		})
		if err == nil {
			for stream.Receive() {
				m := stream.Msg()
				for _, l := range m.GetLogLines() {
					seen = max(seen, l.GetSequence())
				}
				if onChange != nil {
					onChange(m)
				}
				if Ended(m.GetTask().GetState()) {
					_ = stream.Close() // all was said
					return m.GetTask(), nil
				}
			}
			err = stream.Err()
			_ = stream.Close()
		}
		switch connect.CodeOf(err) {
		case connect.CodeNotFound, connect.CodeInvalidArgument, connect.CodePermissionDenied, connect.CodeUnauthenticated:
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for task %s: %w (last: %w)", t.GetId(), ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Ended tells whether a state is final.
func Ended(s taskv1.State) bool {
	switch s {
	case taskv1.State_STATE_SUCCEEDED, taskv1.State_STATE_FAILED, taskv1.State_STATE_CANCELED, taskv1.State_STATE_TIMED_OUT:
		return true
	}
	return false
}

// WaitDone is Wait for a task that must succeed.
func (r *Rig) WaitDone(ctx context.Context, t *taskv1.Task) (*taskv1.Task, error) {
	t, err := r.Wait(ctx, t, nil)
	if err != nil {
		return nil, err
	}
	if t.GetState() != taskv1.State_STATE_SUCCEEDED {
		return t, fmt.Errorf("task %s (%s) ended %s: %s", t.GetId(), t.GetKind(), t.GetState(), t.GetError())
	}
	return t, nil
}
