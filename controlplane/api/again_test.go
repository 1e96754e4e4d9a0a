package api

import (
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"

	taskv1 "chom.dev/proto/gen/chom/task/v1"
	"chom.dev/proto/gen/chom/task/v1/taskv1connect"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/token"
	"chom.dev/proto/contract"
)

// TestStreamsOutliveNoRights has people watch a task whose rights end meanwhile, and others who keep theirs.
func TestStreamsOutliveNoRights(t *testing.T) {
	w := sqliteWorld(t)
	ctx := t.Context()
	ours, err := contract.ParseOrganizationID(w.ours.organization)
	must(t, err)
	owner := w.caller(t, w.ours.owner)
	made, revoked, err := w.tokens.Create(ctx, owner, token.Request{Name: "x", Scope: account.Read})
	must(t, err)
	acting, actingText, err := w.tokens.Impersonate(ctx, w.caller(t, w.operator), ours, w.caller(t, w.ours.viewer).ID, "ticket 4711: they see no tasks")
	must(t, err)
	bound, boundText := w.member(t, w.ours.organization, "bound@ours.example", organization.Member)
	for name, test := range map[string]struct {
		text string
		end  func() error
		code connect.Code
	}{
		"a token that is revoked":        {revoked, func() error { return w.tokens.Revoke(ctx, owner, made.ID) }, connect.CodeUnauthenticated},
		"an impersonation that is ended": {actingText, func() error { return w.tokens.EndImpersonation(ctx, acting.ID) }, connect.CodeUnauthenticated},
		"a member who is removed":        {w.ours.member, func() error { return w.organizations.RemoveMember(ctx, owner, ours, w.caller(t, w.ours.member).ID) }, connect.CodeNotFound},
		"a member who is bound to some sites": {boundText, func() error {
			return second(w.organizations.UpdateMember(ctx, owner, ours, bound.ID, organization.MemberChange{Sites: []string{}, Bounds: true}))
		}, connect.CodeUnavailable},
		"an owner":    {w.ours.owner, nil, 0},
		"an operator": {w.operator, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := taskv1connect.NewTaskServiceClient(http.DefaultClient, w.url)
			ctx, info := connect.NewClientContext(ctx)
			info.RequestHeader().Set("Authorization", "Bearer "+test.text)
			stream, err := client.WatchTask(ctx, &taskv1.WatchTaskRequest{OrganizationId: w.ours.organization, TaskId: w.ours.task})
			must(t, err)
			defer stream.Close()
			if !stream.Receive() {
				t.Fatalf("it did not begin: %v", stream.Err())
			}
			over := make(chan error, 1)
			go func() {
				for stream.Receive() {
				}
				over <- stream.Err()
			}()
			if test.end == nil {
				select {
				case err := <-over:
					t.Errorf("it ended: %v", err)
				case <-time.After(againEvery + 2*time.Second):
				}
				return
			}
			must(t, test.end())
			select {
			case err := <-over:
				if connect.CodeOf(err) != test.code {
					t.Errorf("it ended with %v", err)
				}
			case <-time.After(5 * time.Second):
				t.Error("it goes on after 5 seconds")
			}
		})
	}
}
