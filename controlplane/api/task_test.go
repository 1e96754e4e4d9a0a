package api

import (
	"net/http"
	"testing"

	"connectrpc.com/connect"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	"chom.dev/proto/gen/chom/fleet/v1/fleetv1connect"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

// TestServerTasks: of what happens on a server an operator sees all, with the names of whose it is, and a member what is done for
// their organization.
func TestServerTasks(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		servers := func(text string) fleetv1connect.ServerServiceClient {
			return fleetv1connect.NewServerServiceClient(http.DefaultClient, w.url, connect.WithInterceptors(bearer(text)))
		}
		seen := map[string]string{}
		for token, pages := "", 0; token != "" || pages == 0; pages++ {
			page, err := servers(w.operator).ListServerTasks(ctx, &fleetv1.ListServerTasksRequest{ServerId: w.server, PageSize: 2, PageToken: token})
			must(t, err)
			for _, one := range page.GetTasks() {
				seen[one.GetTask().GetId()] = one.GetOrganizationName() + "/" + one.GetSiteName()
			}
			token = page.GetNextPageToken()
		}
		if n := w.count(t, `SELECT COUNT(*) FROM tasks WHERE server_id = $1`, w.server); len(seen) != n || n < 3 {
			t.Errorf("an operator sees %d of %d tasks", len(seen), n)
		}
		for id, want := range map[string]string{w.ours.task: w.ours.name + "/site", w.theirs.task: w.theirs.name + "/site", w.platform: "/"} {
			if seen[id] != want {
				t.Errorf("the task %s is shown as %q, not %q", id, seen[id], want)
			}
		}
		for _, tenant := range []tenant{w.ours, w.theirs} {
			mine, err := w.as(tenant.viewer).tasks.ListTasks(ctx, &taskv1.ListTasksRequest{OrganizationId: tenant.organization, ServerId: w.server})
			must(t, err)
			for _, one := range mine.GetTasks() {
				if one.GetOrganizationId() != tenant.organization {
					t.Errorf("a member of %s sees the task %v", tenant.name, one)
				}
			}
			if len(mine.GetTasks()) == 0 {
				t.Errorf("a member of %s sees none of their tasks on the server", tenant.name)
			}
			_, err = servers(tenant.owner).ListServerTasks(ctx, &fleetv1.ListServerTasksRequest{ServerId: w.server})
			if connect.CodeOf(err) != connect.CodePermissionDenied {
				t.Errorf("an owner asks for all tasks of a server: %v", err)
			}
		}
		_, err := w.as(w.ours.viewer).tasks.ListTasks(ctx, &taskv1.ListTasksRequest{OrganizationId: w.theirs.organization, ServerId: w.server})
		if connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("a member asks for another organization's tasks on the server: %v", err)
		}
	})
}
