package api

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
	"chom.dev/proto/gen/chom/organization/v1/organizationv1connect"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	"chom.dev/proto/gen/chom/site/v1/sitev1connect"
	taskv1 "chom.dev/proto/gen/chom/task/v1"
	"chom.dev/proto/gen/chom/task/v1/taskv1connect"
	"chom.dev/proto/gen/chom/token/v1/tokenv1connect"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/token"
	"chom.dev/proto/contract"
)

// as are the clients of somebody with a token.
type as struct {
	organizations organizationv1connect.OrganizationServiceClient
	tokens        tokenv1connect.TokenServiceClient
	sites         sitev1connect.SiteServiceClient
	tasks         taskv1connect.TaskServiceClient
}

func (w *world) as(text string) as {
	option := connect.WithInterceptors(bearer(text))
	return as{
		organizationv1connect.NewOrganizationServiceClient(http.DefaultClient, w.url, option),
		tokenv1connect.NewTokenServiceClient(http.DefaultClient, w.url, option),
		sitev1connect.NewSiteServiceClient(http.DefaultClient, w.url, option),
		taskv1connect.NewTaskServiceClient(http.DefaultClient, w.url, option),
	}
}

func (w *world) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), statement, args...); return err }))
}

// second makes another site of ours, and gives its id and that of the task that installs it.
func (w *world) second(t *testing.T) (id, ordered string) {
	t.Helper()
	organization, err := contract.ParseOrganizationID(w.ours.organization)
	must(t, err)
	made, task, err := w.sites.Create(t.Context(), site.Request{Organization: organization, Name: "second", Type: "static", Domains: []string{"second.example.com"}})
	must(t, err)
	return made.ID.String(), task.ID
}

// TestBoundToSites has callers who are bound to one of two sites call each method: a member with a grant, a personal token, an
// organization's own.
func TestBoundToSites(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		ours, err := contract.ParseOrganizationID(w.ours.organization)
		must(t, err)
		otherSite, otherTask := w.second(t)
		owner := w.caller(t, w.ours.owner)
		_, err = w.organizations.UpdateMember(t.Context(), owner, ours, w.caller(t, w.ours.member).ID, organization.MemberChange{Sites: []string{w.ours.site}, Bounds: true})
		must(t, err)
		_, personal, err := w.tokens.Create(t.Context(), owner, token.Request{Name: "bound", Scope: account.Manage, Organization: ours, Sites: []string{w.ours.site}})
		must(t, err)
		_, own, err := w.tokens.CreateForOrganization(t.Context(), owner, token.Request{Name: "bound", Role: organization.Admin, Scope: account.Manage, Organization: ours, Sites: []string{w.ours.site}})
		must(t, err)
		for name, text := range map[string]string{"a member": w.ours.member, "a personal token": personal, "an organization's token": own} {
			t.Run(name, func(t *testing.T) {
				has := organization.Member
				switch text {
				case personal:
					has = organization.Owner
				case own:
					has = organization.Admin
				}
				w.ours.certificate = w.upload(t, w.ours.organization, w.ours.site) // the caller before has deleted one
				for _, procedure := range procedures() {
					rule := rules[procedure]
					if rule.who != inOrganization || strings.HasSuffix(procedure, "/LeaveOrganization") {
						continue
					}
					if strings.Contains(procedure, ".ImportService/") {
						w.ours.upload = w.expect(t, w.ours.organization, w.ours.site) // a new one takes the place of the one before
					}
					there := w.ours
					there.site, there.task = otherSite, otherTask
					here := connect.CodeOf(w.call(t, text, procedure, w.valid(procedure, w.ours)))
					elsewhere := w.call(t, text, procedure, w.valid(procedure, there))
					switch {
					case !has.AtLeast(rule.role) || rule.sites == allSites:
						if here != connect.CodePermissionDenied || connect.CodeOf(elsewhere) != connect.CodePermissionDenied {
							t.Errorf("%s: %v, elsewhere %v", procedure, here, elsewhere)
						}
					case here == connect.CodePermissionDenied || here == connect.CodeNotFound:
						t.Errorf("%s about their site: %v", procedure, here)
					case rule.sites == ofSite || strings.Contains(procedure, "TaskService") && !strings.HasSuffix(procedure, "/ListTasks"):
						there.site, there.task = contract.NewSiteID().String(), contract.NewTaskID().String()
						nothing := w.call(t, text, procedure, w.valid(procedure, there))
						if connect.CodeOf(elsewhere) != connect.CodeNotFound || elsewhere.Error() != nothing.Error() {
							t.Errorf("%s about another site: %v; about none: %v", procedure, elsewhere, nothing)
						}
					}
				}
				them := w.as(text)
				sites, err := them.sites.ListSites(t.Context(), &sitev1.ListSitesRequest{OrganizationId: w.ours.organization, ShowTrashed: true})
				if err != nil || len(sites.GetSites()) != 1 || sites.GetSites()[0].GetId() != w.ours.site {
					t.Errorf("they see the sites %v, %v", sites, err)
				}
				seen, err := them.organizations.GetOrganization(t.Context(), &organizationv1.GetOrganizationRequest{OrganizationId: w.ours.organization})
				must(t, err)
				if a := seen.GetOrganization().GetAccess(); a.GetRole() != roleMessages[has] || a.GetAllSites() || !slices.Equal(a.GetSiteIds(), []string{w.ours.site}) {
					t.Errorf("they are told that they may %v", a)
				}
				for _, filter := range []string{"", otherSite, w.ours.site} {
					tasks, err := them.tasks.ListTasks(t.Context(), &taskv1.ListTasksRequest{OrganizationId: w.ours.organization, SiteId: filter})
					if err != nil || (len(tasks.GetTasks()) == 0) != (filter == otherSite) ||
						slices.ContainsFunc(tasks.GetTasks(), func(one *taskv1.Task) bool { return one.GetSiteId() != w.ours.site }) {
						t.Errorf("of %q they see the tasks %v, %v", filter, tasks, err)
					}
				}
			})
		}
		if n := w.count(t, `SELECT COUNT(*) FROM sites WHERE id = $1 AND phase = 'active' AND generation = 1`, otherSite); n != 1 {
			t.Error("the other site was touched")
		}
	})
}

// TestAccess: everybody is told what they may do themselves, and operators that they may do what owners may.
func TestAccess(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		w := newWorld(t, d)
		for text, want := range map[string]organizationv1.Role{
			w.ours.viewer: organizationv1.Role_ROLE_VIEWER, w.ours.member: organizationv1.Role_ROLE_MEMBER, w.ours.admin: organizationv1.Role_ROLE_ADMIN,
			w.ours.owner: organizationv1.Role_ROLE_OWNER, w.operator: organizationv1.Role_ROLE_OWNER,
		} {
			them := w.as(text).organizations
			got, err := them.GetOrganization(ctx, &organizationv1.GetOrganizationRequest{OrganizationId: w.ours.organization})
			must(t, err)
			all, err := them.ListOrganizations(ctx, &organizationv1.ListOrganizationsRequest{})
			must(t, err)
			for _, one := range append(all.GetOrganizations(), got.GetOrganization()) {
				if a := one.GetAccess(); a.GetRole() != want || !a.GetAllSites() || len(a.GetSiteIds()) > 0 {
					t.Errorf("the %s is told that they may %v", want, a)
				}
			}
		}
		// Who is an owner elsewhere is none here.
		_, both := w.member(t, w.ours.organization, "owner@"+w.theirs.name+".example", organization.Viewer)
		all, err := w.as(both).organizations.ListOrganizations(ctx, &organizationv1.ListOrganizationsRequest{})
		must(t, err)
		told := map[string]organizationv1.Role{}
		for _, one := range all.GetOrganizations() {
			told[one.GetName()] = one.GetAccess().GetRole()
		}
		if len(told) != 2 || told[w.ours.name] != organizationv1.Role_ROLE_VIEWER || told[w.theirs.name] != organizationv1.Role_ROLE_OWNER {
			t.Errorf("they are told %v", told)
		}
	})
}

// TestSecondFactor is about an organization that demands one, and old tokens of people who have none.
func TestSecondFactor(t *testing.T) {
	t.Parallel()
	w := sqliteWorld(t)
	w.exec(t, `UPDATE organizations SET require_second_factor = TRUE WHERE id = $1`, w.ours.organization)
	for _, procedure := range procedures() {
		if rules[procedure].who != inOrganization {
			continue
		}
		if err := w.call(t, w.ours.owner, procedure, w.valid(procedure, w.ours)); connect.CodeOf(err) != connect.CodePermissionDenied || !strings.Contains(err.Error(), "second factor") {
			t.Errorf("%s: %v", procedure, err)
		}
	}
	w.exec(t, `
		INSERT INTO totps (id, account_id, sealed_seed, created_at, confirmed_at, last_step)
		VALUES ('x', $1, $2, 1, 1, 0)`, w.caller(t, w.ours.owner).ID, []byte{})
	if _, err := w.as(w.ours.owner).organizations.GetOrganization(t.Context(), &organizationv1.GetOrganizationRequest{OrganizationId: w.ours.organization}); err != nil {
		t.Errorf("with one: %v", err)
	}
	if _, err := w.as(w.operator).organizations.GetOrganization(t.Context(), &organizationv1.GetOrganizationRequest{OrganizationId: w.ours.organization}); err != nil {
		t.Errorf("an operator: %v", err)
	}
}

// TestInvitationLinks is about who gets to see them.
func TestInvitationLinks(t *testing.T) {
	w := sqliteWorld(t)
	ctx := t.Context()
	admin := w.as(w.ours.admin).organizations
	made, err := admin.CreateInvitation(ctx, &organizationv1.CreateInvitationRequest{OrganizationId: w.ours.organization, Email: "anna@example.com", Role: organizationv1.Role_ROLE_MEMBER})
	must(t, err)
	if !strings.Contains(made.GetLink(), "#chominv_") {
		t.Errorf("the link is %s", made.GetLink())
	}
	for name, text := range map[string]string{"a viewer": w.ours.viewer, "a member": w.ours.member} {
		if _, err := w.as(text).organizations.ListInvitations(ctx, &organizationv1.ListInvitationsRequest{OrganizationId: w.ours.organization}); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("%s lists them: %v", name, err)
		}
	}
	for name, text := range map[string]string{"an admin": w.ours.admin, "an owner": w.ours.owner, "an operator": w.operator} {
		listed, err := w.as(text).organizations.ListInvitations(ctx, &organizationv1.ListInvitationsRequest{OrganizationId: w.ours.organization})
		if err != nil || len(listed.GetInvitations()) != 2 || strings.Contains(protojson.Format(listed), "chominv_") {
			t.Errorf("%s lists %v, %v", name, listed, err)
		}
	}
	_, secret, _ := strings.Cut(made.GetLink(), "#")
	_, err = w.as("").organizations.GetInvitation(ctx, &organizationv1.GetInvitationRequest{Token: secret})
	if connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("an empty proof: %v", err) // no proof at all is another thing, below
	}
	shown, err := organizationv1connect.NewOrganizationServiceClient(http.DefaultClient, w.url).GetInvitation(ctx, &organizationv1.GetInvitationRequest{Token: secret})
	if err != nil || shown.GetOrganizationName() != "ours" || shown.GetInvitation().GetEmail() != "anna@example.com" {
		t.Errorf("its holder sees %v, %v", shown, err)
	}
	if _, err := w.as(w.theirs.viewer).organizations.AcceptInvitation(ctx, &organizationv1.AcceptInvitationRequest{Token: secret}); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("accepted with another address: %v", err)
	}
	w.join(t, w.theirs.organization, "anna@example.com", organization.Viewer)
	_, anna := w.member(t, w.theirs.organization, "anna@example.com", organization.Viewer)
	joined, err := w.as(anna).organizations.AcceptInvitation(ctx, &organizationv1.AcceptInvitationRequest{Token: secret})
	if err != nil || joined.GetMember().GetRole() != organizationv1.Role_ROLE_MEMBER || joined.GetOrganization().GetId() != w.ours.organization {
		t.Errorf("joined %v, %v", joined, err)
	}
	if strings.Contains(w.log.String(), "chominv_") {
		t.Error("the log holds a link")
	}
}

// TestMassAssignment sends fields that are nobody's to set.
func TestMassAssignmentOfMembers(t *testing.T) {
	w := sqliteWorld(t)
	viewer := w.caller(t, w.ours.viewer)
	send := func(text, procedure, body string) int {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+procedure, strings.NewReader(body))
		must(t, err)
		request.Header.Set("Authorization", "Bearer "+text)
		request.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(request)
		must(t, err)
		defer answer.Body.Close()
		_, err = io.Copy(io.Discard, answer.Body)
		must(t, err)
		return answer.StatusCode
	}
	const extra = `"operator":true,"platformAdmin":true,"verifiedAt":"1","tenantId":"x","planId":"x","stripeCustomerId":"x","state":"STATE_CLOSED","createdBy":"x","kind":"KIND_PERSONAL","accountId2":"x"`
	const organizations, tokens = "/chom.organization.v1.OrganizationService/", "/chom.token.v1.TokenService/"
	about := `"organizationId":"` + w.ours.organization + `"`
	send(w.ours.viewer, organizations+"CreateOrganization", `{"name":"assigned",`+extra+`,"owner":"x","role":"ROLE_OWNER"}`)
	send(w.ours.owner, organizations+"UpdateOrganization", `{`+about+`,"name":"renamed","updateMask":"name",`+extra+`,"id":"`+w.theirs.organization+`","ownerEmail":"x@example.com","requireSecondFactor":true}`)
	send(w.ours.owner, organizations+"UpdateMember", `{`+about+`,"accountId":"`+viewer.ID+`","role":"ROLE_OWNER","allSites":false,"siteIds":[],"updateMask":"siteIds",`+extra+`,"email":"x@example.com"}`)
	send(w.ours.owner, tokens+"CreateOrganizationToken", `{`+about+`,"name":"assigned","role":"ROLE_VIEWER","scope":"SCOPE_READ",`+extra+`,"expireTime":"2099-01-01T00:00:00Z","accountId":"`+viewer.ID+`"}`)
	send(w.ours.viewer, tokens+"CreateToken", `{"name":"assigned","scope":"SCOPE_READ",`+extra+`,"role":"ROLE_OWNER","accountId":"`+w.caller(t, w.ours.owner).ID+`"}`)
	if status := send(w.ours.owner, organizations+"UpdateMember", `{`+about+`,"accountId":"`+viewer.ID+`","operator":true,"updateMask":"operator"}`); status == http.StatusOK {
		t.Error("a mask that names what is nobody's was taken")
	}
	for claim, query := range map[string]string{
		"one operator": `SELECT COUNT(*) FROM accounts WHERE operator`,
		"the renamed organization kept its row otherwise":    `SELECT COUNT(*) FROM organizations WHERE id = '` + w.ours.organization + `' AND name = 'renamed' AND state = 'active' AND NOT require_second_factor`,
		"the viewer lost its sites and nothing else changed": `SELECT COUNT(*) FROM members WHERE account_id = '` + viewer.ID + `' AND organization_id = '` + w.ours.organization + `' AND role = 'viewer' AND NOT all_sites`,
		"the viewer kept its address":                        `SELECT COUNT(*) FROM accounts WHERE id = '` + viewer.ID + `' AND email = 'viewer@ours.example'`,
		"the new organization is open":                       `SELECT COUNT(*) FROM organizations WHERE name = 'assigned' AND state = 'active'`,
		"the organization's token is nobody's":               `SELECT COUNT(*) FROM tokens WHERE name = 'assigned' AND kind = 'organization' AND account_id IS NULL AND role = 'viewer' AND expires_at < 4000000000000000`,
		"the personal token is the viewer's":                 `SELECT COUNT(*) FROM tokens WHERE name = 'assigned' AND kind = 'personal' AND account_id = '` + viewer.ID + `' AND role = ''`,
	} {
		if n := w.count(t, query); n != 1 {
			t.Errorf("%s: %d", claim, n)
		}
	}
}

// TestCreateOrganization is about whose it becomes.
func TestCreateOrganization(t *testing.T) {
	w := sqliteWorld(t)
	for name, test := range map[string]struct {
		text, email string
		code        connect.Code
		owner       string
	}{
		"a person's own":             {w.ours.viewer, "", 0, "viewer@ours.example"},
		"a person's, for another":    {w.ours.owner, "other@example.com", connect.CodePermissionDenied, ""},
		"an operator's own":          {w.operator, "", 0, "operator@example.com"},
		"an operator's, for another": {w.operator, "other@example.com", 0, "other@example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			request := &organizationv1.CreateOrganizationRequest{Name: "o-" + strings.ToLower(strings.NewReplacer(" ", "", "'", "", ",", "").Replace(name)), OwnerEmail: test.email}
			made, err := w.as(test.text).organizations.CreateOrganization(t.Context(), request)
			if err != nil && connect.CodeOf(err) != test.code || made.GetOrganization().GetOwnerEmail() != test.owner {
				t.Errorf("got %v, %v", made, err)
			}
		})
	}
}

// TestClosedToMembers closes an organization through the door.
func TestClosedToMembers(t *testing.T) {
	w := sqliteWorld(t)
	ctx := t.Context()
	owner := w.as(w.ours.owner)
	closing, err := owner.organizations.CloseOrganization(ctx, &organizationv1.CloseOrganizationRequest{OrganizationId: w.ours.organization, Name: "ours"})
	if err != nil || closing.GetOrganization().GetState() != organizationv1.State_STATE_CLOSING || closing.GetOrganization().GetCloseTime() == nil {
		t.Fatalf("got %v, %v", closing, err)
	}
	if n, err := w.sites.Follow(ctx); err != nil || n != 1 {
		t.Fatalf("%d sites followed, %v", n, err)
	}
	for name, err := range map[string]error{
		"resume":            second(owner.sites.ResumeSite(ctx, &sitev1.ResumeSiteRequest{OrganizationId: w.ours.organization, SiteId: w.ours.site})),
		"update":            second(owner.sites.UpdateSite(ctx, &sitev1.UpdateSiteRequest{OrganizationId: w.ours.organization, SiteId: w.ours.site, Limits: &sitev1.Limits{CpuPercent: 50}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"limits"}}})),
		"create":            second(owner.sites.CreateSite(ctx, &sitev1.CreateSiteRequest{OrganizationId: w.ours.organization, Name: "new", Type: "static", Domains: []string{"new.example.com"}})),
		"operator's resume": second(w.as(w.operator).sites.ResumeSite(ctx, &sitev1.ResumeSiteRequest{OrganizationId: w.ours.organization, SiteId: w.ours.site})),
	} {
		if connect.CodeOf(err) != connect.CodeFailedPrecondition {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := owner.sites.GetSite(ctx, &sitev1.GetSiteRequest{OrganizationId: w.ours.organization, SiteId: w.ours.site}); err != nil {
		t.Errorf("its owner cannot look any more: %v", err)
	}
	w.exec(t, `UPDATE organizations SET state = 'closed', close_at = NULL WHERE id = $1`, w.ours.organization)
	for _, procedure := range procedures() {
		if rules[procedure].who != inOrganization {
			continue
		}
		if err := w.call(t, w.ours.owner, procedure, w.valid(procedure, w.ours)); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("%s of a closed one: %v", procedure, err)
		}
	}
	if shown, err := w.as(w.operator).organizations.GetOrganization(ctx, &organizationv1.GetOrganizationRequest{OrganizationId: w.ours.organization}); err != nil || shown.GetOrganization().GetState() != organizationv1.State_STATE_CLOSED {
		t.Errorf("an operator sees %v, %v", shown, err)
	}
}

func second[T any](_ T, err error) error { return err }
