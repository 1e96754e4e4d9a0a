package rig

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"chom.dev/proto/client"
	accountv1 "chom.dev/proto/gen/chom/account/v1"
	domainv1 "chom.dev/proto/gen/chom/domain/v1"
	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
)

// NewClient makes a client of the people's listener at url. An empty token is
// a stranger's.
func NewClient(url, token string) *client.Client {
	return client.NewWith(&http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 256, // the benchmarks keep many calls under way
		Protocols:           http2only(),
	}}, url, token)
}

func http2only() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// OperatorEmail and OperatorPassword are what the operator signs in with where a token is of no use: in a browser.
const (
	OperatorEmail    = "operator@chom.example"
	OperatorPassword = "seven blue kettles whistle"
)

func (r *Rig) signIn(ctx context.Context, secret string) error {
	if secret == "" {
		if r.Token == "" {
			return errors.New("chomd printed no setup secret: its data directory is not new, and no token is known")
		}
		r.Client = NewClient(r.URL(), r.Token)
		return nil
	}
	res, err := NewClient(r.URL(), "").Accounts.CreateFirstOperator(ctx, &accountv1.CreateFirstOperatorRequest{
		SetupSecret: secret, Email: OperatorEmail, Password: OperatorPassword,
	})
	if err != nil {
		return fmt.Errorf("create first operator: %w", err)
	}
	r.Token = res.GetToken()
	r.Client = NewClient(r.URL(), r.Token)
	return nil
}

// Organization makes an organization that holds a domain, and gives its id.
func (r *Rig) Organization(ctx context.Context, name, owner, domain string) (string, error) {
	made, err := r.Organizations.CreateOrganization(ctx, &organizationv1.CreateOrganizationRequest{Name: name, OwnerEmail: owner})
	if err != nil {
		return "", fmt.Errorf("create organization: %w", err)
	}
	id := made.GetOrganization().GetId()
	if _, err := r.Claims.AttestClaim(ctx, &domainv1.AttestClaimRequest{OrganizationId: id, Name: domain}); err != nil {
		return "", fmt.Errorf("give %s to the organization: %w", domain, err)
	}
	return id, nil
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
