package main

// The packages whose tests judge most mutants. The sweeps of api go over every call of every service.
var (
	api   = []string{"controlplane/api"}
	sites = []string{"controlplane/site", "controlplane/api"}
	tasks = []string{"controlplane/task"}
	fleet = []string{"controlplane/fleet"}
)

var mutants = []mutant{
	// Who may do what.
	{"authz: a member's role is not compared", "controlplane/api/authz.go",
		`case !has.AtLeast(rule.role):`, `case false:`, api},
	{"authz: a stranger passes", "controlplane/api/authz.go",
		`case platform || has == "":`, `case platform:`, api},
	{"authz: a member reaches the platform", "controlplane/api/authz.go",
		`case platform || has == "":`, `case has == "" && !platform:`, api},
	{"authz: operators' calls are anybody's", "controlplane/api/authz.go",
		`case rule.who == operator && !caller.Operator:`, `case false:`, api},
	{"authz: a call without a token passes", "controlplane/api/authz.go",
		`case rule.who == anybody:`, `case rule.who == anybody || caller == nil:`, api},
	{"authz: a method without a row passes", "controlplane/api/authz.go",
		`case !ok || rule.who == nobody:`, `case false:`, api},
	{"authz: deleting a site is for members", "controlplane/api/authz.go",
		`sitev1connect.SiteServiceDeleteSiteProcedure:      members(organization.Admin,`, `sitev1connect.SiteServiceDeleteSiteProcedure:      members(organization.Member,`, api},
	{"authz: signing in to a site is for members", "controlplane/api/authz.go",
		`sitev1connect.SiteServiceCreateSiteLoginProcedure: members(organization.Admin,`, `sitev1connect.SiteServiceCreateSiteLoginProcedure: members(organization.Member,`, api},
	{"authz: removing a server is for everybody who signed in", "controlplane/api/authz.go",
		`fleetv1connect.ServerServiceRemoveServerProcedure:    operators(account.Manage)`, `fleetv1connect.ServerServiceRemoveServerProcedure:    person(account.Manage)`, api},
	{"authz: a token's scope is not compared", "controlplane/api/authz.go",
		`case caller.Scope < rule.scope:`, `case false:`, api},
	{"authz: a session need not be fresh", "controlplane/api/authz.go",
		`case rule.fresh && !caller.Fresh(now):`, `case false:`, api},
	{"authz: a token bound to an organization reaches others", "controlplane/api/authz.go",
		`case caller.Organization != "" && caller.Organization != id:`, `case false:`, api},
	{"authz: an organization's demand for a second factor is ignored", "controlplane/api/authz.go",
		`case member.NeedsSecondFactor && !caller.SecondFactor:`, `case false:`, api},
	{"authz: grants of single sites are not compared", "controlplane/api/authz.go",
		`case rule.sites == ofSite && caller.Reaches(site) && member.Reaches(site):`, `case rule.sites == ofSite:`, api},
	{"authz: who is bound to sites may act on the whole organization", "controlplane/api/authz.go",
		`return fault.Denied("this is about the whole organization; you are bound to some of its sites")`, `return nil`, api},

	// One tenant's rows.
	{"tenant: a site is found by its id alone", "controlplane/site/store.go",
		`columns+` + "`" + ` WHERE s.organization_id = $1 AND s.id = $2` + "`" + `, organization, id`, `columns+` + "`" + ` WHERE s.id = $2 OR s.id = $1` + "`" + `, organization, id`, sites},
	{"tenant: sites of all are listed", "controlplane/site/list.go",
		`WHERE s.organization_id = $1`, `WHERE $1 = $1`, sites},
	{"tenant: a task is found by its id alone", "controlplane/task/read.go",
		"FROM tasks\n\t\tWHERE organization_id = $1\n\t\tAND id = $2`", "FROM tasks\n\t\tWHERE $1 = $1\n\t\tAND id = $2`", []string{"controlplane/task", "controlplane/api"}},
	{"tenant: tasks of all are listed", "controlplane/task/read.go",
		"WHERE organization_id = $1\n\t\tAND ($2 = ''", "WHERE $1 = $1\n\t\tAND ($2 = ''", []string{"controlplane/task", "controlplane/api"}},
	{"tenant: others' tasks can be canceled", "controlplane/task/read.go",
		"SET version = version + 1\n\t\tWHERE organization_id = $1\n", "SET version = version + 1\n\t\tWHERE $1 = $1\n", []string{"controlplane/task", "controlplane/api"}},
	{"tenant: a dedicated server takes anybody's site", "controlplane/fleet/place.go",
		`AND (s.tenancy = 'shared' OR s.organization_id = $1)`, `AND (s.tenancy = 'shared' OR $1 = $1)`, fleet},

	// Orders to agents.
	{"orders: an order needs no signature", "proto/contract/sign.go",
		`KeyID(k) == so.GetKeyId() &&
			ed25519.Verify(k, signed(so.GetOrder()), so.GetSignature())`, `KeyID(k) == so.GetKeyId()`, []string{"proto/contract"}},
	{"orders: an order is signed for anything", "proto/contract/sign.go",
		`func signed(order []byte) []byte { return append([]byte(orderDomain), order...) }`, `func signed(order []byte) []byte { return order }`, []string{"proto/contract"}},
	{"orders: a row without a seal is signed", "controlplane/db/seal.go",
		`return tx.sealKey != nil && hmac.Equal(seal, tx.Seal(parts...))`, `return tx.sealKey != nil || hmac.Equal(seal, tx.Seal(parts...))`, tasks},
	{"orders: the agent takes another server's orders", "agent/task/accept.go",
		`case o.ServerId != e.cfg.Server.String():`, `case false:`, []string{"agent/task"}},
	{"orders: what was refused once is taken later", "agent/task/accept.go",
		`case turnedAway:`, `case false:`, []string{"agent/task"}},

	// Agents' identities.
	{"agents: a revoked certificate passes", "controlplane/fleet/check.go",
		`if serial == "" || serial != i.serial && serial != i.nextSerial {`, `if serial == "" {`, fleet},
	{"agents: a stale epoch passes", "controlplane/fleet/check.go",
		`if epoch != i.epoch {`, `if epoch > i.epoch {`, fleet},
	{"agents: a removed server passes", "controlplane/fleet/check.go",
		`return fault.Denied("the server was removed")`, `return nil`, fleet},
	{"agents: a join token works twice", "controlplane/fleet/enroll.go",
		`AND used_at IS NULL`, `AND (used_at IS NULL OR TRUE)`, fleet},
	{"agents: a join token lives for ever", "controlplane/fleet/enroll.go",
		`AND expires_at > $2`, `AND (expires_at > $2 OR TRUE)`, fleet},
	{"agents: a join token's secret is not compared", "controlplane/fleet/enroll.go",
		`if subtle.ConstantTimeCompare(hash, hashSecret(secret)) != 1 {`, `if subtle.ConstantTimeCompare(hash, hashSecret(secret)) > 1 {`, fleet},
	{"agents: a token's answer is replayed to another key", "controlplane/fleet/enroll.go",
		`case enrollment != e.ID || !same(bound, e.KeyHash):`, `case enrollment != e.ID:`, fleet},

	// The history.
	{"audit: refusals leave no trace", "controlplane/api/door.go",
		`if err := d.recordRefusal(ctx, procedure, id.String()); err != nil {
		return err
	}`, ``, api},

	// Limits.
	{"limits: a site's queue is endless", "controlplane/task/enqueue.go",
		`if open >= siteOpenMax {`, `if open < 0 {`, tasks},
	{"limits: pages are as long as one likes", "controlplane/page/page.go",
		`case wanted < 0 || wanted > MaxSize:`, `case wanted < 0:`, []string{"controlplane/page"}},
	{"limits: bodies are as long as one likes", "controlplane/api/api.go",
		`connect.WithReadMaxBytes(maxBody)`, `connect.WithReadMaxBytes(0)`, api},
	{"limits: a domain is taken from another site", "controlplane/site/domains.go",
		`return fault.Conflict(fmt.Sprintf("the domain %s belongs to another site", name))`, `_ = fault.Conflict(fmt.Sprintf("the domain %s belongs to another site", name))`, sites},
}
