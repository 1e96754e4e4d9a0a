// Package api is the people's door: the public API by Connect, gRPC, gRPC-Web and REST, the health and install pages beside it, and
// nothing else. A file per service turns a request into a call of a noun and its result into an answer; what every
// call goes through is listed in order.go, who may do what and how often in authz.go, and how a failure looks in errors.go. No rule about
// sites, servers or organizations lives here.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	"chom.dev/proto/gen/chom/account/v1/accountv1connect"
	"chom.dev/proto/gen/chom/audit/v1/auditv1connect"
	"chom.dev/proto/gen/chom/backup/v1/backupv1connect"
	"chom.dev/proto/gen/chom/certificate/v1/certificatev1connect"
	"chom.dev/proto/gen/chom/domain/v1/domainv1connect"
	"chom.dev/proto/gen/chom/fleet/v1/fleetv1connect"
	"chom.dev/proto/gen/chom/mail/v1/mailv1connect"
	"chom.dev/proto/gen/chom/metric/v1/metricv1connect"
	"chom.dev/proto/gen/chom/organization/v1/organizationv1connect"
	"chom.dev/proto/gen/chom/site/v1/sitev1connect"
	"chom.dev/proto/gen/chom/task/v1/taskv1connect"
	"chom.dev/proto/gen/chom/token/v1/tokenv1connect"
	"chom.dev/proto/gen/chom/webhook/v1/webhookv1connect"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/backup"
	"chom.dev/controlplane/backup/target"
	"chom.dev/controlplane/certificate"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/install"
	"chom.dev/controlplane/limit"
	history "chom.dev/controlplane/metrics"
	"chom.dev/controlplane/notify"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/repeat"
	"chom.dev/controlplane/rest"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/sitelog"
	"chom.dev/controlplane/task"
	"chom.dev/controlplane/token"
	"chom.dev/controlplane/web"
	"chom.dev/controlplane/webhook"
)

// Config is what the door opens to.
type Config struct {
	DB            *db.DB
	Log           *slog.Logger
	Metrics       prometheus.Registerer
	Accounts      *account.Accounts
	Organizations *organization.Organizations
	Tokens        *token.Tokens
	Fleet         *fleet.Fleet
	Sites         *site.Sites
	Tasks         *task.Tasks
	Mails         *notify.Mails
	Webhooks      *webhook.Webhooks
	Domains       *domain.Domains
	Certificates  *certificate.Certificates
	Backups       *backup.Backups
	Targets       *target.Targets
	History       *history.Metrics // of hosts and sites
	Logs          *sitelog.Hub
	Providers     *domain.Providers
	Packages      *install.Packages
	// Limits count calls; nil counts them in this process, at the default rates.
	Limits *limit.Limiter
	// Repeats keeps the keys of calls that may be sent twice; its Run is not the door's.
	Repeats *repeat.Repeats
	// Proxies are the networks of proxies in front of the door, whose X-Forwarded-For is believed.
	Proxies []netip.Prefix
	// Origins are those whose pages may read answers ("https://app.example.com"), or "*" for all; none by default.
	Origins []string
	// Address is what pasted lines name.
	Address install.Address
	// Pin is the SHA-256 of the CA's public key, in hex; join tokens carry it.
	Pin string
	// PreviewCA is the CA that signs preview names, in PEM; empty where the operator has a certificate for them.
	PreviewCA []byte
	Ready     Ready
	// TLS says that the listener speaks it.
	TLS bool
	// Closing ends streams when it ends, so that the process can stop; nil means never.
	Closing context.Context
}

// New checks the authorization table and builds the handler of the people's listener.
func New(c Config) (http.Handler, error) {
	if err := checkRules(rules, methods()); err != nil {
		return nil, err
	}
	validator, err := newValidator()
	if err != nil {
		return nil, fmt.Errorf("open the people's door: %w", err)
	}
	counted, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, fmt.Errorf("open the people's door: %w", err)
	}
	options := []connect.HandlerOption{connect.WithReadMaxBytes(maxBody), connect.WithCompressMinBytes(minCompressed), connect.WithCodec(rest.Codec{})}
	pages, err := c.pages()
	if err != nil {
		return nil, fmt.Errorf("open the people's door: %w", err)
	}
	d := &door{
		db: c.DB, log: c.Log, accounts: c.Accounts, tokens: c.Tokens, cookies: newCookies(c.Address.URL), organizations: c.Organizations, limits: c.Limits, repeats: c.Repeats,
		validator: validator, metrics: counted, refusals: &refusals{db: c.DB, metrics: counted}, errors: connect.NewErrorWriter(options...), closing: c.Closing,
		proxies: c.Proxies, origins: c.Origins, pages: pages, tls: c.TLS,
	}
	if d.closing == nil {
		d.closing = context.Background()
	}
	if d.limits == nil {
		d.limits = limit.New(limit.DefaultRates())
	}
	guarded := append(options, d.message())
	router, err := rest.New(methods())
	if err != nil {
		return nil, fmt.Errorf("open the people's door: %w", err)
	}

	mux := http.NewServeMux()
	mount := func(path string, handler http.Handler) { mux.Handle(path, d.call(handler)) }
	mount(accountv1connect.NewAccountServiceHandler(&accountService{c.Accounts, d.cookies}, guarded...))
	mount(accountv1connect.NewSessionServiceHandler(&sessionService{c.Accounts, d.cookies}, guarded...))
	mount(accountv1connect.NewSecondFactorServiceHandler(&secondFactorService{c.Accounts, d.cookies}, guarded...))
	mount(accountv1connect.NewDeviceLoginServiceHandler(&deviceLoginService{c.Accounts}, guarded...))
	mount(auditv1connect.NewAuditServiceHandler(&auditService{c.DB, audit.New(c.DB), c.Accounts}, guarded...))
	mount(mailv1connect.NewMailServiceHandler(&mailService{c.Mails}, guarded...))
	mount(organizationv1connect.NewOrganizationServiceHandler(&organizationService{c.Organizations}, guarded...))
	mount(fleetv1connect.NewServerServiceHandler(&serverService{c.DB, c.Fleet, c.Sites, c.Tasks, c.Packages, c.Address, c.Pin}, guarded...))
	mount(sitev1connect.NewSiteServiceHandler(&siteService{c.Sites, c.Logs}, guarded...))
	mount(tokenv1connect.NewTokenServiceHandler(&tokenService{c.Tokens}, guarded...))
	mount(taskv1connect.NewTaskServiceHandler(&taskService{c.DB, c.Tasks}, guarded...))
	mount(domainv1connect.NewClaimServiceHandler(&claimService{c.Domains}, guarded...))
	mount(certificatev1connect.NewCertificateServiceHandler(&certificateService{c.Certificates}, guarded...))
	mount(backupv1connect.NewBackupServiceHandler(&backupService{c.Backups}, guarded...))
	imports := &importService{c.Backups}
	mount(backupv1connect.NewImportServiceHandler(imports, guarded...))
	mount(backupv1connect.NewPolicyServiceHandler(&policyService{backups: c.Backups}, guarded...))
	mount(backupv1connect.NewTargetServiceHandler(&targetService{c.Targets}, guarded...))
	mount(metricv1connect.NewMetricServiceHandler(&metricService{c.History}, guarded...))
	mount(domainv1connect.NewDnsProviderServiceHandler(&dnsProviderService{c.Providers}, guarded...))
	mount(webhookv1connect.NewWebhookServiceHandler(&webhookService{c.Webhooks}, guarded...))

	byREST := router.Handler(mux)
	mux.Handle("/api/", byREST)
	mux.Handle(uploadPath, d.uploads(imports, byREST))

	// Health and reflection are public: they say nothing that the source does not.
	mux.Handle(grpchealth.NewHandler(health{c.Ready}, options...))
	reflector := grpcreflect.NewStaticReflector(
		accountv1connect.AccountServiceName, accountv1connect.SessionServiceName, accountv1connect.SecondFactorServiceName,
		accountv1connect.DeviceLoginServiceName, auditv1connect.AuditServiceName, backupv1connect.BackupServiceName, backupv1connect.ImportServiceName, backupv1connect.PolicyServiceName, backupv1connect.TargetServiceName, certificatev1connect.CertificateServiceName, organizationv1connect.OrganizationServiceName, fleetv1connect.ServerServiceName,
		mailv1connect.MailServiceName, metricv1connect.MetricServiceName, sitev1connect.SiteServiceName, taskv1connect.TaskServiceName, tokenv1connect.TokenServiceName, webhookv1connect.WebhookServiceName, grpchealth.HealthV1ServiceName,
	)
	mux.Handle(grpcreflect.NewHandlerV1(reflector, options...))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, options...))

	if err := mountDocs(mux); err != nil {
		return nil, err
	}
	dashboard, err := web.New(web.Built())
	if err != nil {
		return nil, err
	}
	mux.Handle("/", dashboard)
	mountHealth(mux, d, c.Ready)
	if len(c.PreviewCA) > 0 { // public: everybody who visits a preview is shown what it has signed
		mux.HandleFunc("GET /preview-ca.pem", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-pem-file")
			_, _ = w.Write(c.PreviewCA) // a caller who went away needs no answer
		})
	}
	c.Packages.Mount(mux)
	return d.request(mux), nil
}

// pages are the origins whose pages may make a browser act: the door's own, and those that are listed.
func (c Config) pages() (*http.CrossOriginProtection, error) {
	pages := http.NewCrossOriginProtection()
	for _, origin := range append([]string{c.Address.URL}, c.Origins...) {
		if origin == "" || origin == anyOrigin {
			continue
		}
		if err := pages.AddTrustedOrigin(origin); err != nil {
			return nil, err
		}
	}
	return pages, nil
}

// newValidator compiles the rules of all requests now: a rule that does not compile must not wait for its first request.
func newValidator() (protovalidate.Validator, error) {
	var requests []proto.Message
	for _, method := range methods() {
		requests = append(requests, dynamicpb.NewMessage(method.Input()))
	}
	validator, err := protovalidate.New(protovalidate.WithMessages(requests...))
	if err != nil {
		return nil, fmt.Errorf("compile the rules of requests: %w", err)
	}
	for _, request := range requests {
		var broken *protovalidate.ValidationError
		if err := validator.Validate(request); err != nil && !errors.As(err, &broken) {
			return nil, fmt.Errorf("rules of %s: %w", request.ProtoReflect().Descriptor().FullName(), err)
		}
	}
	return validator, nil
}
