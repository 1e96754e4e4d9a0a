package api

import (
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	organizationv1 "chom.dev/proto/gen/chom/organization/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	tokenv1 "chom.dev/proto/gen/chom/token/v1"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/token"
	"chom.dev/proto/contract"
)

// TestScopes has tokens of each scope, of people and of an organization, call each method: right = min(scope, role now).
func TestScopes(t *testing.T) {
	t.Parallel()
	w := sqliteWorld(t)
	ours, err := contract.ParseOrganizationID(w.ours.organization)
	must(t, err)
	roles := map[organization.Role]string{organization.Viewer: w.ours.viewer, organization.Admin: w.ours.admin, organization.Owner: w.ours.owner}
	for _, scope := range []account.Scope{account.Read, account.Deploy, account.Manage} {
		for role, session := range roles {
			person := w.caller(t, session)
			_, personal, err := w.tokens.Create(t.Context(), person, token.Request{Name: "x", Scope: scope})
			must(t, err)
			texts := map[token.Kind]string{token.Personal: personal}
			if role != organization.Owner {
				_, texts[token.Organization], err = w.tokens.CreateForOrganization(t.Context(), w.caller(t, w.ours.owner), token.Request{Name: "x", Organization: ours, Role: role, Scope: scope})
				must(t, err)
			}
			for kind, text := range texts {
				for _, procedure := range procedures() {
					for role := range roles { // what the call before did is undone
						w.join(t, w.ours.organization, string(role)+"@ours.example", role)
					}
					rule := rules[procedure]
					may := rule.who == anybody || !rule.session && scope >= rule.scope && (rule.who == signedIn && kind == token.Personal ||
						rule.who == inOrganization && role.AtLeast(rule.role) && !(rule.inPerson && kind == token.Organization)) && !(rule.fresh && scope < account.Manage)
					err := w.call(t, text, procedure, w.valid(procedure, w.ours))
					if got := connect.CodeOf(err); (got == connect.CodePermissionDenied) == may || got == connect.CodeUnauthenticated {
						t.Errorf("%s of %s with scope %s calls %s: %v", kind, role, scope, procedure, err)
					}
				}
			}
		}
	}
}

// TestTokenOutlivesRights is about a token whose person is less than when it was made.
func TestTokenOutlivesRights(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		person, text := w.member(t, w.ours.organization, "anna@example.com", organization.Owner)
		suspend := func() error {
			return second(w.as(text).sites.SuspendSite(t.Context(), &sitev1.SuspendSiteRequest{OrganizationId: w.ours.organization, SiteId: w.ours.site}))
		}
		look := func() error {
			return second(w.as(text).sites.GetSite(t.Context(), &sitev1.GetSiteRequest{OrganizationId: w.ours.organization, SiteId: w.ours.site}))
		}
		must(t, suspend())
		w.join(t, w.ours.organization, "anna@example.com", organization.Viewer)
		if err := suspend(); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("a viewer's token changes: %v", err)
		}
		must(t, look())
		owner := w.as(w.ours.owner).organizations
		must(t, second(owner.RemoveMember(t.Context(), &organizationv1.RemoveMemberRequest{OrganizationId: w.ours.organization, AccountId: person.ID})))
		if err := look(); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("a stranger's token looks: %v", err)
		}
		w.exec(t, `UPDATE accounts SET operator = TRUE WHERE id = $1`, person.ID)
		must(t, suspend())
		w.exec(t, `UPDATE accounts SET operator = FALSE WHERE id = $1`, person.ID)
		if err := suspend(); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("a former operator's token changes: %v", err)
		}
	})
}

// TestTokens makes, lists and revokes them through the door.
func TestTokens(t *testing.T) {
	w := sqliteWorld(t)
	ctx := t.Context()
	owner := w.as(w.ours.owner)
	made, err := owner.tokens.CreateToken(ctx, &tokenv1.CreateTokenRequest{Name: "laptop", Scope: accountv1.Scope_SCOPE_READ, OrganizationId: w.ours.organization})
	must(t, err)
	look := func(text string) error {
		return second(w.as(text).organizations.GetOrganization(ctx, &organizationv1.GetOrganizationRequest{OrganizationId: w.ours.organization}))
	}
	must(t, look(made.GetSecret()))
	w.join(t, w.theirs.organization, "owner@ours.example", organization.Owner) // where its person is somebody, too
	if _, err := w.as(made.GetSecret()).organizations.GetOrganization(ctx, &organizationv1.GetOrganizationRequest{OrganizationId: w.theirs.organization}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("it reaches another organization: %v", err)
	}
	if _, err := w.as(made.GetSecret()).tokens.CreateToken(ctx, &tokenv1.CreateTokenRequest{Name: "child", Scope: accountv1.Scope_SCOPE_READ}); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("it makes another: %v", err)
	}
	bound, err := owner.tokens.CreateToken(ctx, &tokenv1.CreateTokenRequest{Name: "bound", Scope: accountv1.Scope_SCOPE_MANAGE, OrganizationId: w.ours.organization})
	must(t, err)
	if _, err := w.as(bound.GetSecret()).organizations.CreateOrganization(ctx, &organizationv1.CreateOrganizationRequest{Name: "elsewhere"}); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("it acts beyond its organization: %v", err)
	}
	must(t, w.tokens.Flush(ctx))
	listed, err := owner.tokens.ListTokens(ctx, &tokenv1.ListTokensRequest{})
	must(t, err)
	var shown *tokenv1.Token
	for _, one := range listed.GetTokens() {
		if one.GetId() == made.GetToken().GetId() {
			shown = one
		}
	}
	if shown.GetName() != "laptop" || shown.GetScope() != accountv1.Scope_SCOPE_READ || shown.GetLastUsedTime() == nil || shown.GetLastUsedAddress() != "127.0.0.1" {
		t.Errorf("listed as %v", shown)
	}
	if _, err := w.as(w.theirs.owner).tokens.RevokeToken(ctx, &tokenv1.RevokeTokenRequest{TokenId: made.GetToken().GetId()}); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("revoked by another person: %v", err)
	}
	must(t, second(owner.tokens.RevokeToken(ctx, &tokenv1.RevokeTokenRequest{TokenId: made.GetToken().GetId()})))
	if err := look(made.GetSecret()); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("after it was revoked: %v", err)
	}
	own, err := owner.tokens.CreateOrganizationToken(ctx, &tokenv1.CreateOrganizationTokenRequest{
		OrganizationId: w.ours.organization, Name: "ci", Role: organizationv1.Role_ROLE_ADMIN, Scope: accountv1.Scope_SCOPE_MANAGE,
	})
	must(t, err)
	if _, err := w.as(own.GetSecret()).organizations.RemoveMember(ctx, &organizationv1.RemoveMemberRequest{OrganizationId: w.ours.organization, AccountId: w.caller(t, w.ours.owner).ID}); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("an organization's token removes an owner: %v", err)
	}
	if _, err := w.as(own.GetSecret()).organizations.ListOrganizations(ctx, &organizationv1.ListOrganizationsRequest{}); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("an organization's token asks what is a person's: %v", err)
	}
	for _, secret := range []string{made.GetSecret(), own.GetSecret()} {
		if strings.Contains(w.log.String(), secret) {
			t.Error("the log holds a token")
		}
	}
}

// TestImpersonation has an operator act as members of two kinds, and call each method.
func TestImpersonation(t *testing.T) {
	t.Parallel()
	w := sqliteWorld(t)
	ctx := t.Context()
	start := func(text, accountID string) (*tokenv1.StartImpersonationResponse, error) {
		return w.as(text).tokens.StartImpersonation(ctx, &tokenv1.StartImpersonationRequest{OrganizationId: w.ours.organization, AccountId: accountID, Reason: "ticket 4711: they cannot see their site"})
	}
	owner, viewer := w.caller(t, w.ours.owner), w.caller(t, w.ours.viewer)
	if _, err := start(w.ours.owner, viewer.ID); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("an owner starts one: %v", err)
	}
	for role, who := range map[organization.Role]account.Caller{organization.Owner: owner, organization.Viewer: viewer} {
		w.join(t, w.ours.organization, who.Email, role) // whatever the calls before did
		began, err := start(w.operator, who.ID)
		must(t, err)
		acting := began.GetSecret()
		for _, procedure := range procedures() {
			w.join(t, w.ours.organization, who.Email, role)
			rule := rules[procedure]
			// What is the person's alone, what wants a fresh proof, and what is an operator's, is not theirs.
			may := rule.who == anybody || rule.who == signedIn && rule.bounded ||
				rule.who == inOrganization && role.AtLeast(rule.role) && !rule.fresh && !rule.inPerson
			err := w.call(t, acting, procedure, w.valid(procedure, w.ours))
			if got := connect.CodeOf(err); (got == connect.CodePermissionDenied) == may || got == connect.CodeUnauthenticated {
				t.Errorf("acting as %s: %s: %v", role, procedure, err)
			}
			if rule.who == inOrganization {
				if err := w.call(t, acting, procedure, w.valid(procedure, w.theirs)); rule.fresh || rule.inPerson {
					continue
				} else if connect.CodeOf(err) != connect.CodeNotFound {
					t.Errorf("acting as %s in another organization: %s: %v", role, procedure, err)
				}
			}
		}
		listed, err := w.as(acting).organizations.ListOrganizations(ctx, &organizationv1.ListOrganizationsRequest{})
		if err != nil || len(listed.GetOrganizations()) != 1 || listed.GetOrganizations()[0].GetId() != w.ours.organization {
			t.Errorf("acting as %s sees %v, %v", role, listed, err)
		}
		if _, err := start(acting, viewer.ID); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("acting as %s starts another: %v", role, err)
		}
		must(t, second(w.as(w.operator).tokens.EndImpersonation(ctx, &tokenv1.EndImpersonationRequest{TokenId: began.GetToken().GetId()})))
		if _, err := w.as(acting).organizations.ListOrganizations(ctx, &organizationv1.ListOrganizationsRequest{}); connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("acting as %s goes on after the end: %v", role, err)
		}
	}
	for who, want := range map[string]bool{owner.ID: true, viewer.ID: false} { // who may change something
		if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE organization_id = $1 AND outcome = 'done' AND actor_id = $2 AND impersonator_id = $3`,
			w.ours.organization, who, w.caller(t, w.operator).ID); (n > 0) != want {
			t.Errorf("%d events of %s say who was behind them", n, who)
		}
	}
	for _, action := range []string{"impersonation.start", "impersonation.end"} {
		if n := w.count(t, `SELECT COUNT(*) FROM audit_events WHERE organization_id = $1 AND action = $2`, w.ours.organization, action); n != 2 {
			t.Errorf("%d events %s", n, action)
		}
	}
	if fmt.Sprint(w.count(t, `SELECT COUNT(*) FROM accounts WHERE operator`)) != "1" {
		t.Error("somebody became an operator")
	}
}
