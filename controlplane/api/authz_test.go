package api

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/organization"
	"chom.dev/proto/contract"
)

// TestNobody calls each method without a token, with a wrong one, and with one in the wrong place.
func TestNobody(t *testing.T) {
	t.Parallel()
	w := sqliteWorld(t)
	before := w.effects(t)
	for _, procedure := range procedures() {
		for name, token := range map[string]string{
			"no token": "", "a wrong token": "chompat_" + strings.Repeat("A", 49), "a header that is longer": w.operator + " " + w.operator,
		} {
			err := w.call(t, token, procedure, w.valid(procedure, w.ours))
			// Whom nobody knows gets to the handlers of what anybody may call.
			got := connect.CodeOf(err)
			if open := token == "" && rules[procedure].who == anybody; (got == connect.CodeUnauthenticated) == open || got == connect.CodePermissionDenied {
				t.Errorf("%s with %s: %v", procedure, name, err)
			}
		}
	}
	if after := w.effects(t); !maps.Equal(before, after) {
		t.Errorf("effects: before %v, after %v", before, after)
	}
}

// TestForeign has a member of one organization call each method with what belongs to another one.
func TestForeign(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		before := w.effects(t)
		random := tenant{
			name: w.theirs.name, organization: contract.NewOrganizationID().String(), site: contract.NewSiteID().String(), task: contract.NewTaskID().String(),
			account: contract.NewTaskID().String(), invitation: contract.NewTaskID().String(), token: contract.NewTaskID().String(),
			webhook: contract.NewTaskID().String(), delivery: contract.NewTaskID().String(), claim: contract.NewTaskID().String(), provider: contract.NewTaskID().String(),
			certificate: contract.NewTaskID().String(), backup: contract.NewTaskID().String(), restore: contract.NewTaskID().String(), policy: contract.NewTaskID().String(), target: contract.NewTaskID().String(),
			upload: contract.NewTaskID().String(),
		}
		for _, procedure := range procedures() {
			if rules[procedure].who != inOrganization {
				continue
			}
			fields := methods()[procedure].Input().Fields()
			things := slices.ContainsFunc([]protoreflect.Name{"site_id", "site_ids", "task_id", "account_id", "invitation_id", "token_id", "webhook_id", "delivery_id", "claim_id", "provider_id", "certificate_id", "backup_id", "restore_id", "policy_id", "import_id", "backup_policy_id", "target_id"},
				func(name protoreflect.Name) bool { return fields.ByName(name) != nil })
			for name, mix := range map[string]func(of tenant) tenant{
				"organization": func(of tenant) tenant { return of },
				"organization with our things": func(of tenant) tenant {
					ours := w.ours
					ours.organization = of.organization
					return ours
				},
				"things in our organization": func(of tenant) tenant {
					of.organization = w.ours.organization
					return of
				},
			} {
				if strings.HasPrefix(name, "things") && (!things || strings.HasSuffix(procedure, "/ListTasks") || strings.HasSuffix(procedure, "/Sparklines")) {
					continue // nothing but the organization is named, or it is only a filter
				}
				t.Run(strings.TrimPrefix(procedure, "/")+", their "+name, func(t *testing.T) {
					refused := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'access.refuse'`)
					theirs := w.call(t, w.ours.owner, procedure, w.valid(procedure, mix(w.theirs)))
					nothing := w.call(t, w.ours.owner, procedure, w.valid(procedure, mix(random)))
					if connect.CodeOf(theirs) != connect.CodeNotFound {
						t.Errorf("got %v", theirs)
					}
					if fmt.Sprint(theirs) != fmt.Sprint(nothing) {
						t.Errorf("theirs: %v; what does not exist: %v", theirs, nothing)
					}
					if strings.HasPrefix(name, "organization") {
						if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE action = 'access.refuse'`) - refused; n != 2 {
							t.Errorf("%d audit events for two tries", n)
						}
					}
				})
			}
			t.Run(strings.TrimPrefix(procedure, "/")+", of the platform", func(t *testing.T) {
				about := w.ours
				about.organization, about.task = nilUUID, w.platform
				if err := w.call(t, w.ours.owner, procedure, w.valid(procedure, about)); connect.CodeOf(err) != connect.CodeNotFound {
					t.Errorf("got %v", err)
				}
			})
		}
		if after := w.effects(t); !maps.Equal(before, after) {
			t.Errorf("effects: before %v, after %v", before, after)
		}
		// A filter by another tenant's site shows nothing, as for one that does not exist.
		request := w.valid("/chom.task.v1.TaskService/ListTasks", tenant{organization: w.ours.organization, site: w.theirs.site})
		if err := w.call(t, w.ours.owner, "/chom.task.v1.TaskService/ListTasks", request); err != nil {
			t.Errorf("list: %v", err)
		}
	})
}

// TestMembers has members of each kind call each method about their own organization.
func TestMembers(t *testing.T) {
	t.Parallel()
	w := sqliteWorld(t)
	texts := map[organization.Role]string{organization.Viewer: w.ours.viewer, organization.Member: w.ours.member, organization.Admin: w.ours.admin, organization.Owner: w.ours.owner}
	for _, procedure := range procedures() {
		if rules[procedure].session {
			if err := w.call(t, w.ours.owner, procedure, w.valid(procedure, w.ours)); connect.CodeOf(err) != connect.CodePermissionDenied {
				t.Errorf("a token calls %s: %v", procedure, err)
			}
			continue
		}
		rule := rules[procedure]
		for role, text := range texts {
			for role := range texts { // what the call before did is undone
				w.join(t, w.ours.organization, string(role)+"@ours.example", role)
			}
			err := w.call(t, text, procedure, w.valid(procedure, w.ours))
			may := rule.who == anybody || rule.who == signedIn || rule.who == inOrganization && role.AtLeast(rule.role)
			if got := connect.CodeOf(err); (got == connect.CodePermissionDenied) == may || got == connect.CodeUnauthenticated || strings.Contains(fmt.Sprint(err), "organization not found") {
				t.Errorf("%s calls %s: %v", role, procedure, err)
			}
		}
	}
}

func TestFirstOperator(t *testing.T) {
	d := dbtest.SQLite(t)
	w := newWorld(t, d)
	const procedure = "/chom.account.v1.AccountService/CreateFirstOperator"
	if err := w.call(t, "", procedure, w.valid(procedure, w.ours)); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("after the first operator: %v", err)
	}
	// A platform without an operator.
	must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE accounts SET operator = FALSE`)
		return err
	}))
	secret, err := w.accounts.PrepareFirstOperator(t.Context())
	must(t, err)
	if err := w.call(t, "", procedure, w.valid(procedure, w.ours)); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("with a guess: %v", err)
	}
	request := w.valid(procedure, w.ours)
	set(request, "setup_secret", secret)
	if err := w.call(t, "", procedure, request); err != nil {
		t.Errorf("with the secret: %v", err)
	}
	if err := w.call(t, "", procedure, request); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("a second time: %v", err)
	}
	if strings.Contains(w.log.String(), secret) || strings.Contains(w.log.String(), w.operator) {
		t.Error("the log holds a secret")
	}
}
