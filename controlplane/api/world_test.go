package api

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/install"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/pki"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

// world is a control plane behind its people's door, with an operator, a server, and two organizations that have all a tenant
// can have.
type world struct {
	db      *db.DB
	url     string
	log     *strings.Builder
	closing context.CancelFunc

	operator string // a token
	server   string
	ours     tenant
	theirs   tenant
	platform string // a task on the server itself
}

type tenant struct {
	organization, site, task string
	owner, viewer            string // tokens
}

func newWorld(t *testing.T, d *db.DB) *world {
	t.Helper()
	ctx := t.Context()
	w := &world{db: d, log: &strings.Builder{}}
	log := slog.New(slog.NewTextHandler(&lockedWriter{to: w.log}, nil))
	_, signer, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	tasks, err := task.NewTasks(d, signer, log, prometheus.NewRegistry(), task.OnEnd(task.ConvergeSite, site.Ended))
	must(t, err)
	servers, sites := fleet.New(d, log), site.New(d, tasks, log, site.Config{})
	accounts, organizations := account.New(d), organization.New(d)
	closing, cancel := context.WithCancel(ctx)
	w.closing = cancel
	handler, err := New(Config{
		DB: d, Log: log, Metrics: prometheus.NewRegistry(), Accounts: accounts, Organizations: organizations, Fleet: servers, Sites: sites,
		Tasks: tasks, Packages: install.NewPackages(""), Address: install.Address{URL: "http://127.0.0.1:8080", Agents: "127.0.0.1:8443"},
		Pin: strings.Repeat("0", 64), Ready: d.Ping, Closing: closing,
	})
	must(t, err)
	listener := httptest.NewServer(handler)
	t.Cleanup(func() {
		cancel()
		listener.Close()
	})
	w.url = listener.URL

	secret, err := accounts.PrepareFirstOperator(ctx)
	must(t, err)
	_, w.operator, err = accounts.CreateFirstOperator(ctx, secret, "operator@example.com")
	must(t, err)
	w.server = enrolled(t, servers, "web1")
	w.ours = newTenant(t, d, organizations, sites, "ours")
	w.theirs = newTenant(t, d, organizations, sites, "theirs")
	must(t, db.InTx(ctx, d, func(tx *db.Tx) error {
		made, err := task.Enqueue(ctx, tx, task.New{Server: w.server, Kind: task.Noop, Parameters: noop})
		w.platform = made.ID
		return err
	}))
	return w
}

func newTenant(t *testing.T, d *db.DB, organizations *organization.Organizations, sites *site.Sites, name string) tenant {
	t.Helper()
	ctx := t.Context()
	o, err := organizations.Create(ctx, name, "owner@"+name+".example")
	must(t, err)
	s, ordered, err := sites.Create(ctx, site.Request{Organization: o.ID, Name: "site", Type: "static", Domains: []string{name + ".example.com"}})
	must(t, err)
	return tenant{
		organization: o.ID.String(), site: s.ID.String(), task: ordered.ID,
		owner: member(t, d, o.ID, "owner@"+name+".example", organization.Owner), viewer: member(t, d, o.ID, "viewer@"+name+".example", organization.Viewer),
	}
}

// member makes somebody with a role and gives them a token, which no call does yet.
func member(t *testing.T, d *db.DB, organization contract.OrganizationID, email string, role organization.Role) string {
	t.Helper()
	token := "chomop_" + (rand.Text() + rand.Text())[:43]
	address, err := contract.ParseEmail(email)
	must(t, err)
	must(t, db.InTx(t.Context(), d, func(tx *db.Tx) error {
		id, err := account.Ensure(t.Context(), tx, address)
		if err != nil {
			return err
		}
		hash := sha256.Sum256([]byte(token))
		for _, statement := range []struct {
			text string
			args []any
		}{
			{`INSERT INTO members (organization_id, account_id, role, created_at) VALUES ($1, $2, $3, 1) ON CONFLICT DO NOTHING`, []any{organization, id, string(role)}},
			{`INSERT INTO tokens (id, account_id, secret_hash, created_at, expires_at) VALUES ($1, $2, $3, 1, $4)`,
				[]any{rand.Text(), id, hash[:], db.Micros(time.Now().Add(time.Hour))}},
		} {
			if _, err := tx.Exec(t.Context(), statement.text, statement.args...); err != nil {
				return err
			}
		}
		return nil
	}))
	return token
}

// enrolled makes a server whose host is ready for sites.
func enrolled(t *testing.T, servers *fleet.Fleet, name string) string {
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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// call sends any request to any method, as somebody with a token (empty for nobody), and returns the error.
func (w *world) call(t *testing.T, token, procedure string, request *dynamicpb.Message) error {
	t.Helper()
	method := methods()[procedure]
	client := connect.NewClient[dynamicpb.Message, dynamicpb.Message](http.DefaultClient, w.url+procedure,
		connect.WithSchema(method), connect.WithResponseInitializer(func(_ connect.Spec, message any) error {
			if m, ok := message.(*dynamicpb.Message); ok {
				*m = *dynamicpb.NewMessage(method.Output())
			}
			return nil
		}))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	message := connect.NewRequest(request)
	if token != "" {
		message.Header().Set("Authorization", "Bearer "+token)
	}
	if method.IsStreamingServer() {
		stream, err := client.CallServerStream(ctx, message)
		if err != nil {
			return err
		}
		defer stream.Close()
		if stream.Receive() {
			return nil // admitted
		}
		return stream.Err()
	}
	_, err := client.CallUnary(ctx, message)
	return err
}

// effects is everything that a call could have changed.
func (w *world) effects(t *testing.T) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, table := range []string{"sites", "domains", "tasks", "organizations", "members", "accounts", "tokens", "servers", "join_tokens"} {
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

// set writes a field of a request by its name.
func set(m *dynamicpb.Message, name string, value any) {
	m.Set(m.Descriptor().Fields().ByName(protoreflect.Name(name)), protoreflect.ValueOf(value))
}

// valid is a request that a method would accept, as far as its form goes, about a tenant.
func (w *world) valid(procedure string, about tenant) *dynamicpb.Message {
	request := dynamicpb.NewMessage(methods()[procedure].Input())
	fields := request.Descriptor().Fields()
	for name, value := range map[string]string{
		"organization_id": about.organization, "site_id": about.site, "task_id": about.task, "server_id": w.server,
		"name": "new-name", "owner_email": "new@example.com", "email": "new@example.com", "type": "static",
		"setup_secret": "chomsetup_" + strings.Repeat("A", 43),
	} {
		if fields.ByName(protoreflect.Name(name)) != nil {
			set(request, name, value)
		}
	}
	if strings.HasSuffix(procedure, "/CreateServer") {
		request.Clear(fields.ByName("organization_id"))
	}
	if field := fields.ByName("domains"); field != nil {
		request.Mutable(field).List().Append(protoreflect.ValueOfString("new.example.com"))
	}
	if field := fields.ByName("update_mask"); field != nil {
		mask := request.Mutable(field).Message()
		mask.Mutable(mask.Descriptor().Fields().ByName("paths")).List().Append(protoreflect.ValueOfString("domains"))
	}
	return request
}

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
		db: w.db, log: slog.New(slog.NewTextHandler(&lockedWriter{to: log}, nil)), accounts: account.New(w.db), organizations: organization.New(w.db),
		validator: validator, metrics: counted, errors: connect.NewErrorWriter(), closing: context.Background(),
	}
}
