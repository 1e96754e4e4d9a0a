package api

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "chom.dev/proto/gen/chom/account/v1"
	backupv1 "chom.dev/proto/gen/chom/backup/v1"
	domainv1 "chom.dev/proto/gen/chom/domain/v1"
	metricv1 "chom.dev/proto/gen/chom/metric/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/account/accounttest"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/backup"
	"chom.dev/controlplane/certificate"
	"chom.dev/controlplane/certificate/certificatetest"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/install"
	"chom.dev/controlplane/limit"
	history "chom.dev/controlplane/metrics"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/pki"
	"chom.dev/controlplane/repeat"
	"chom.dev/controlplane/secret/secrettest"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/sitelog"
	"chom.dev/controlplane/task"
	"chom.dev/controlplane/token"
	"chom.dev/proto/contract"
)

// world is a control plane behind its people's door, with an operator, a server, and two organizations that have all a tenant
// can have.
type world struct {
	db      *db.DB
	url     string
	log     *strings.Builder
	closing context.CancelFunc
	config  Config

	accounts      *accounttest.World
	organizations *organization.Organizations
	tokens        *token.Tokens
	sites         *site.Sites

	operator string // a token
	session  string // the operator's, fresh
	server   string
	ours     tenant
	theirs   tenant
	platform string // a task on the server itself
	mail     string // to somebody

	certificates certificate.Config
	chain, key   string // a certificate that may be uploaded, for new.example.com and for what the tenants have
}

// What the world is reached by, and its operator signs in with.
const (
	publicURL     = "http://localhost:8080"
	operatorEmail = "operator@example.com"
)

type tenant struct {
	name                         string
	organization, site, task     string
	account, invitation, token   string // of the viewer, to somebody, the organization's own
	webhook, delivery            string
	claim, provider              string
	certificate                  string // uploaded
	backup, restore              string // of the site
	policy                       string // that nobody has chosen
	target                       string // that nobody has chosen
	upload                       string // to be imported, of which nothing has come
	owner, admin, member, viewer string // texts of tokens
}

func newWorld(t testing.TB, d *db.DB) *world {
	t.Helper()
	ctx := t.Context()
	w := &world{db: d, log: &strings.Builder{}}
	log := slog.New(slog.NewTextHandler(&lockedWriter{to: w.log}, nil))
	_, signer, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	tasks, err := task.NewTasks(d, signer, log, prometheus.NewRegistry(), task.OnEnd(task.ConvergeSite, site.Ended))
	must(t, err)
	servers, sites := fleet.New(d, log), site.New(d, tasks, log, site.Config{AnyName: true, HasPolicy: backup.HasPolicy})
	w.accounts = accounttest.New(t, d, func(c *account.Config) { c.URL = publicURL })
	accounts := w.accounts.Accounts
	w.organizations, w.tokens, w.sites = organization.New(d, organization.Config{URL: publicURL}), w.accounts.Tokens, sites
	closing, cancel := context.WithCancel(ctx)
	w.closing = cancel
	mails, webhooks := newNotices(t, d, log, w.organizations)
	domains := domain.New(d, log, domain.Config{Resolver: noNames{}, InUse: site.InUse})
	w.certificates = certificate.Config{
		Keys: secrettest.New(), Mails: mails, Organizations: w.organizations, Metrics: prometheus.NewRegistry(), PublicURL: publicURL,
		Names: sites.Held, Changed: sites.Recertify,
	}
	certificates, err := certificate.New(d, log, w.certificates)
	must(t, err)
	w.chain, w.key = certificatetest.New(t).Files(t, certificatetest.Leaf("new.example.com", "*.example.com"))
	backups, err := backup.New(d, log, backup.Config{
		Keys: secrettest.New(), Signer: signer, Tasks: tasks, Mails: mails, Organizations: w.organizations, Metrics: prometheus.NewRegistry(), PublicURL: publicURL,
		Uploads: backup.UploadConfig{Dir: t.TempDir(), Quota: 1 << 20},
	})
	must(t, err)
	providers, targets := newProviders(d, log), newTargets(t, d, log)
	kept := newHistory(t, d, log)
	w.config = Config{
		DB: d, Log: log, Accounts: accounts, Tokens: w.tokens, Organizations: w.organizations, Fleet: servers, Sites: sites,
		Tasks: tasks, Domains: domains, Providers: providers, Certificates: certificates, Backups: backups, Targets: targets, History: kept, Mails: mails, Webhooks: webhooks, Packages: install.NewPackages(""), Address: install.Address{URL: publicURL, Agents: "127.0.0.1:8443"},
		Pin: strings.Repeat("0", 64), Ready: d.Ping, Closing: closing, Limits: limit.New(plenty), Repeats: repeat.New(d, log), Logs: sitelog.New(),
	}
	t.Cleanup(func() {
		cancel()
		whole(t, d)
	})
	w.url = w.replica(t, func(*Config) {})

	secret, err := accounts.PrepareFirstOperator(ctx)
	must(t, err)
	_, w.operator, err = accounts.CreateFirstOperator(ctx, secret, operatorEmail, accounttest.Password)
	must(t, err)
	opened, err := accounts.Login(ctx, operatorEmail, accounttest.Password, accounttest.Browser, "")
	must(t, err)
	w.session = opened.SignedIn.Secret
	w.server = enrolled(t, servers, "web1")
	w.ours = newTenant(t, w, sites, "ours")
	w.theirs = newTenant(t, w, sites, "theirs")
	w.ours.webhook, w.ours.delivery = newWebhook(t, d, webhooks, w.ours.organization)
	w.theirs.webhook, w.theirs.delivery = newWebhook(t, d, webhooks, w.theirs.organization)
	w.ours.provider = newProvider(t, providers, w.ours)
	w.theirs.provider = newProvider(t, providers, w.theirs)
	w.ours.target, w.theirs.target = newTarget(t, targets, w.ours), newTarget(t, targets, w.theirs)
	w.mail = newMail(t, d, mails)
	must(t, db.InTx(ctx, d, func(tx *db.Tx) error {
		made, err := task.Enqueue(ctx, tx, task.New{Server: w.server, Kind: task.Noop, Parameters: noop})
		w.platform = made.ID
		return err
	}))
	return w
}

// newHistory is one that is open.
func newHistory(t testing.TB, d *db.DB, log *slog.Logger) *history.Metrics {
	t.Helper()
	kept, err := history.New(d, history.Config{Dir: t.TempDir(), Retention: history.DefaultRetention, MaxBytes: history.DefaultMaxBytes, Log: log})
	must(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- kept.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-ended // that it was told to stop is no news
	})
	for {
		if _, err := kept.Query(t.Context(), history.OfPlatform(), "1", time.Now()); err == nil {
			return kept
		}
		time.Sleep(time.Millisecond)
	}
}

// replica opens another door to the same world, with some of its configuration changed, and gives its URL.
func (w *world) replica(t testing.TB, change func(*Config)) string {
	t.Helper()
	c := w.config
	c.Metrics = prometheus.NewRegistry()
	change(&c)
	handler, err := New(c)
	must(t, err)
	listener := httptest.NewUnstartedServer(handler)
	listener.Config.Protocols = new(http.Protocols)
	listener.Config.Protocols.SetHTTP1(true)
	listener.Config.Protocols.SetUnencryptedHTTP2(true) // for gRPC
	listener.Start()
	t.Cleanup(func() {
		w.closing()
		listener.Close()
	})
	return listener.URL
}

// plenty is for tests that call often.
var plenty = limit.Rates{limit.Auth: 1e6, limit.API: 1e6, limit.Session: 1e6, limit.Operator: 1e6, limit.Sensitive: 1e6}

func newTenant(t testing.TB, w *world, sites *site.Sites, name string) tenant {
	t.Helper()
	ctx := t.Context()
	o, err := w.organizations.Create(ctx, name, "owner@"+name+".example")
	must(t, err)
	s, ordered, err := sites.Create(ctx, site.Request{Organization: o.ID, Name: "site", Type: "static", Domains: []string{name + ".example.com"}})
	must(t, err)
	made := tenant{name: name, organization: o.ID.String(), site: s.ID.String(), task: ordered.ID}
	var owner account.Caller
	owner, made.owner = w.member(t, made.organization, "owner@"+name+".example", organization.Owner)
	_, made.admin = w.member(t, made.organization, "admin@"+name+".example", organization.Admin)
	_, made.member = w.member(t, made.organization, "member@"+name+".example", organization.Member)
	var viewer account.Caller
	viewer, made.viewer = w.member(t, made.organization, "viewer@"+name+".example", organization.Viewer)
	made.account = viewer.ID
	invited, _, err := w.organizations.Invite(ctx, owner, o.ID, organization.Offer{Email: "invited@" + name + ".example", Role: organization.Viewer})
	must(t, err)
	made.invitation = invited.ID
	own, _, err := w.tokens.CreateForOrganization(ctx, owner, token.Request{Name: "ci", Organization: o.ID, Role: organization.Viewer, Scope: account.Read})
	must(t, err)
	made.token = own.ID
	claim, err := w.config.Domains.Create(ctx, o.ID, name+".example.com")
	must(t, err)
	made.claim = claim.ID
	made.certificate = w.upload(t, made.organization, made.site)
	made.backup, made.restore = w.restored(t, o.ID, s.ID)
	called := "nightly"
	policy, err := w.config.Backups.CreatePolicy(ctx, o.ID, backup.PolicyChange{Name: &called})
	must(t, err)
	made.policy = policy.ID.String()
	made.upload = w.expect(t, made.organization, made.site)
	must(t, db.InTx(ctx, w.db, func(tx *db.Tx) error {
		return certificate.Observe(ctx, tx, o.ID, s.ID, time.Now(), []*sitev1.ObservedCertificate{{Domain: name + ".example.com", Problem: "on its way"}})
	}))
	return made
}

// expect makes a place for an archive of a site that is to come.
func (w *world) expect(t testing.TB, organization, site string) string {
	t.Helper()
	of, err := contract.ParseOrganizationID(organization)
	must(t, err)
	to, err := contract.ParseSiteID(site)
	must(t, err)
	made, err := w.config.Backups.CreateImport(t.Context(), of, to, 100, 0, 0)
	must(t, err)
	return made.ID.String()
}

// upload gives a site a certificate, which its host does not hear of: the site stays in its generation.
func (w *world) upload(t testing.TB, organization, site string) string {
	t.Helper()
	quiet := w.certificates
	quiet.Metrics = prometheus.NewRegistry()
	quiet.Changed = func(context.Context, *db.Tx, contract.OrganizationID, contract.SiteID) error { return nil }
	certificates, err := certificate.New(w.db, w.config.Log, quiet)
	must(t, err)
	of, err := contract.ParseOrganizationID(organization)
	must(t, err)
	to, err := contract.ParseSiteID(site)
	must(t, err)
	made, err := certificates.Upload(t.Context(), of, to, w.chain, w.key)
	must(t, err)
	return made.ID
}

// restored gives a site a backup and a restore that have ended, so that others may begin.
func (w *world) restored(t testing.TB, organization contract.OrganizationID, site contract.SiteID) (backup, restore string) {
	t.Helper()
	made, put := contract.NewBackupID(), contract.NewRestoreID()
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error {
		if _, err := tx.Exec(t.Context(), `
			INSERT INTO backups (organization_id, id, site_id, sequence, state, reason, problem, task_id, draft, put, claim, tries, created_at)
			VALUES ($1, $2, $3, 0, 'failed', 'requested', 'the disk is full', '', $4, FALSE, '', 0, 1)`, organization, made, site, []byte{}); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), `
			INSERT INTO restores (organization_id, id, site_id, backup_id, with_files, with_database, state, undone, problem, task_id, created_at)
			VALUES ($1, $2, $3, $4, TRUE, TRUE, 'failed', FALSE, 'the disk is full', '', 1)`, organization, put, site, made)
		return err
	}))
	return made.String(), put.String()
}

// noNames is a DNS in which nobody has set a record.
type noNames struct{}

func (noNames) LookupTXT(_ context.Context, name string) ([]string, error) {
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

// member makes somebody with a role and gives them a token.
func (w *world) member(t testing.TB, organization, email string, role organization.Role) (account.Caller, string) {
	t.Helper()
	person := w.join(t, organization, email, role)
	var text string
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error {
		var err error
		text, err = w.tokens.Issue(t.Context(), tx, person, "test", account.Manage, time.Now().Add(time.Hour))
		return err
	}))
	return w.caller(t, text), text
}

// join makes somebody with a role, and undoes what else became of them. It returns the account.
func (w *world) join(t testing.TB, organization, email string, role organization.Role) string {
	t.Helper()
	address, err := contract.ParseEmail(email)
	must(t, err)
	var person string
	must(t, db.InTx(t.Context(), w.db, func(tx *db.Tx) error {
		if person, err = account.Ensure(t.Context(), tx, address); err != nil {
			return err
		}
		if _, err := tx.Exec(t.Context(), `UPDATE accounts SET verified_at = 1 WHERE id = $1`, person); err != nil {
			return err
		}
		_, err = tx.Exec(t.Context(), `
			INSERT INTO members (organization_id, account_id, role, all_sites, created_at)
			VALUES ($1, $2, $3, TRUE, 1)
			ON CONFLICT (organization_id, account_id) DO UPDATE SET role = excluded.role, all_sites = TRUE`,
			organization, person, string(role))
		return err
	}))
	return person
}

// caller is who a token stands for.
func (w *world) caller(t testing.TB, text string) account.Caller {
	t.Helper()
	found, err := w.tokens.Authenticate(t.Context(), text, "127.0.0.1")
	must(t, err)
	return found
}

// enrolled makes a server whose host is ready for sites.
func enrolled(t testing.TB, servers *fleet.Fleet, name string) string {
	t.Helper()
	made, token, err := servers.Create(t.Context(), name, fleet.Shared, contract.OrganizationID{}, strings.Repeat("0", 64))
	must(t, err)
	_, err = servers.Enroll(t.Context(), fleet.Enrollment{Token: token.Text, ID: name, KeyHash: []byte(name), Facts: fleet.Facts{Prepared: true}}, time.Now(),
		func(contract.ServerID) (pki.Certificate, error) {
			return pki.Certificate{DER: []byte(name), Serial: name, KeyHash: []byte(name), Expires: time.Now().Add(time.Hour)}, nil
		},
		func(context.Context, *db.Tx, contract.ServerID) error { return nil })
	must(t, err)
	return made.ID.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// whole checks that no chain of the audit trail broke, whatever the test did.
func whole(t testing.TB, d *db.DB) {
	t.Helper()
	checked, err := audit.New(d).Verify(context.Background(), nil)
	if err != nil || checked.Events == 0 || len(checked.Damages) > 0 {
		t.Errorf("the audit trail: %+v, %v", checked, err)
	}
}

// effects is everything that a call could have changed.
func (w *world) effects(t *testing.T) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, table := range []string{"sites", "domains", "tasks", "organizations", "members", "accounts", "tokens", "servers", "join_tokens", "invitations", "member_sites", "token_sites", "webhooks", "webhook_deliveries", "mails", "claims", "uploaded_certificates", "dns_providers", "dns_zones", "dns_records", "backups", "restores", "drills", "repositories", "backup_policies", "backup_targets"} {
		var n int
		must(t, w.db.Reader().QueryRow(t.Context(), `SELECT COUNT(*) FROM `+table).Scan(&n))
		counts[table] = n
	}
	var generations, canceled int
	must(t, w.db.Reader().QueryRow(t.Context(), `SELECT COALESCE(SUM(generation), 0) FROM sites`).Scan(&generations))
	must(t, w.db.Reader().QueryRow(t.Context(), `SELECT COUNT(*) FROM tasks WHERE state <> 'queued'`).Scan(&canceled))
	counts["generations"], counts["canceled"] = generations, canceled
	return counts
}

func (w *world) count(t *testing.T, query string, args ...any) (n int) {
	t.Helper()
	must(t, w.db.Reader().QueryRow(t.Context(), query, args...).Scan(&n))
	return n
}

// operatorFor is what the operator calls a method with: a token, or a session where that will not do.
func (w *world) operatorFor(procedure string) string {
	if rules[procedure].session {
		return w.session
	}
	return w.operator
}

// set writes a field of a request by its name.
func set(m *dynamicpb.Message, name string, value any) {
	m.Set(m.Descriptor().Fields().ByName(protoreflect.Name(name)), protoreflect.ValueOf(value))
}

// valid is a request that a method would accept, as far as its form goes, about a tenant.
func (w *world) valid(procedure string, about tenant) *dynamicpb.Message {
	request := dynamicpb.NewMessage(methods()[procedure].Input())
	fields := request.Descriptor().Fields()
	for name, value := range map[string]string{
		"webhook_id": about.webhook, "delivery_id": about.delivery, "mail_id": w.mail, "recipient": "new@example.com", "url": "https://example.com/", "description": "new",
		"organization_id": about.organization, "site_id": about.site, "to_site_id": about.site, "task_id": about.task, "server_id": w.server,
		"account_id": about.account, "invitation_id": about.invitation, "token_id": about.token, "claim_id": about.claim, "provider_id": about.provider, "certificate_id": about.certificate, "backup_id": about.backup, "restore_id": about.restore, "policy_id": about.policy, "backup_policy_id": about.policy, "target_id": about.target, "import_id": about.upload, "chain": w.chain, "key": w.key, "reason": "they asked for help",
		"query": "node_load1", "name": "new-name", "email": "new@example.com", "type": "static",
		"setup_secret": "chomsetup_" + strings.Repeat("A", 43), "password": accounttest.Password, "code": "000000", "user_code": "BCDF-GHJK",
		"credential": "{}", "session_id": about.site, "passkey_id": about.site, "login_token": bearerOf("chomlogin_"),
		"challenge_token": bearerOf("chomask_"), "device_code": bearerOf("chomdevice_"), "token": bearerOf(mailed[path.Base(procedure)]),
	} {
		if fields.ByName(protoreflect.Name(name)) != nil {
			set(request, name, value)
		}
	}
	if strings.Contains(procedure, ".ClaimService/") && fields.ByName("name") != nil {
		set(request, "name", "new.example.com")
	}
	if strings.HasSuffix(procedure, "/CreateDnsProvider") {
		request = asDynamic(&domainv1.CreateDnsProviderRequest{OrganizationId: about.organization, Name: "new-name", Zones: []string{"new.example.com"}, Credentials: canaryCredentials()})
	}
	if strings.HasSuffix(procedure, "/CreateTarget") {
		request = asDynamic(&backupv1.CreateTargetRequest{OrganizationId: about.organization, Name: "new-name", Place: &backupv1.CreateTargetRequest_S3{S3: bucketPlace()}, Credentials: bucketCredentials()})
	}
	if strings.HasSuffix(procedure, "/UpdateTarget") {
		addMask(request, "name")
	}
	if strings.HasSuffix(procedure, "/QueryRange") {
		request = asDynamic(&metricv1.QueryRangeRequest{
			OrganizationId: about.organization, Query: "node_load1", StartTime: timestamppb.New(time.Now().Add(-time.Hour)), EndTime: timestamppb.Now(), Step: durationpb.New(time.Minute),
		})
	}
	if field := fields.ByName("figure"); field != nil {
		request.Set(field, protoreflect.ValueOfEnum(protoreflect.EnumNumber(metricv1.Figure_FIGURE_CPU)))
	}
	if strings.HasSuffix(procedure, "/Login") {
		set(request, "email", operatorEmail)
	}
	if strings.HasSuffix(procedure, "/CloseOrganization") {
		set(request, "name", about.name)
	}
	if field := fields.ByName("scope"); field != nil {
		request.Set(field, protoreflect.ValueOfEnum(protoreflect.EnumNumber(accountv1.Scope_SCOPE_MANAGE)))
	}
	if strings.HasSuffix(procedure, "/CreateServer") {
		request.Clear(fields.ByName("organization_id"))
	}
	if field := fields.ByName("domains"); field != nil {
		request.Mutable(field).List().Append(protoreflect.ValueOfString("new.example.com"))
	}
	if field := fields.ByName("archive_bytes"); field != nil {
		request.Set(field, protoreflect.ValueOfUint64(1))
	}
	if field := fields.ByName("part"); field != nil {
		request.Set(field, protoreflect.ValueOfEnum(1)) // the archive
	}
	if field := fields.ByName("site_ids"); field != nil {
		request.Mutable(field).List().Append(protoreflect.ValueOfString(about.site))
	}
	for _, name := range []protoreflect.Name{"role", "scope"} {
		if field := fields.ByName(name); field != nil {
			request.Set(field, protoreflect.ValueOfEnum(1)) // viewer, read
		}
	}
	for _, part := range []string{"domains", "redirect_domains", "require_second_factor", "site_ids", "description", "rank", "backup_policy_id"} {
		if fields.ByName(protoreflect.Name(part)) != nil {
			addMask(request, part)
		}
	}
	return request
}

// mailed are the prefixes of secrets in mailed links, by the method that takes them.
var mailed = map[string]string{
	"VerifyEmail": "chomverify_", "ResetPassword": "chomreset_", "ConfirmEmailChange": "chomemail_",
	"GetInvitation": "chominv_", "AcceptInvitation": "chominv_",
}

// bearerOf is a text of some kind that nobody was given.
func bearerOf(prefix string) string { return prefix + strings.Repeat("0", 49) }

// sqliteWorld is for what does not depend on the engine.
func sqliteWorld(t *testing.T) *world {
	t.Helper()
	return newWorld(t, dbtest.SQLite(t))
}

// testDoor is the door alone, for handlers of a test's own.
func testDoor(t *testing.T, w *world, log *strings.Builder) *door {
	t.Helper()
	validator, err := newValidator()
	must(t, err)
	counted, err := newMetrics(prometheus.NewRegistry())
	must(t, err)
	return &door{
		db: w.db, log: slog.New(slog.NewTextHandler(&lockedWriter{to: log}, nil)), accounts: w.accounts.Accounts, tokens: w.accounts.Tokens, organizations: w.organizations,
		validator: validator, metrics: counted, refusals: &refusals{db: w.db, metrics: counted}, errors: connect.NewErrorWriter(), closing: context.Background(),
		limits: limit.New(plenty), repeats: repeat.New(w.db, slog.New(slog.DiscardHandler)), pages: http.NewCrossOriginProtection(),
	}
}
