// Package client speaks CHOM's public API: one value with a client for each service, all with the same token.
//
// It knows no retries and no configuration files; those are for programs such as chom, the command line.
package client

import (
	"context"
	"net/http"
	"strings"

	"connectrpc.com/connect"

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
)

// Client is the public API of one control plane. It is safe for concurrent use.
//
// Calls fail with a *connect.Error; its code says how. What a field breaks is in its details.
type Client struct {
	Accounts      accountv1connect.AccountServiceClient
	Sessions      accountv1connect.SessionServiceClient
	SecondFactors accountv1connect.SecondFactorServiceClient
	DeviceLogins  accountv1connect.DeviceLoginServiceClient
	Organizations organizationv1connect.OrganizationServiceClient
	Tokens        tokenv1connect.TokenServiceClient
	Audit         auditv1connect.AuditServiceClient
	Webhooks      webhookv1connect.WebhookServiceClient
	Claims        domainv1connect.ClaimServiceClient
	Certificates  certificatev1connect.CertificateServiceClient
	Backups       backupv1connect.BackupServiceClient
	Policies      backupv1connect.PolicyServiceClient
	Targets       backupv1connect.TargetServiceClient
	Imports       backupv1connect.ImportServiceClient
	DNSProviders  domainv1connect.DnsProviderServiceClient
	Mails         mailv1connect.MailServiceClient
	Metrics       metricv1connect.MetricServiceClient
	Servers       fleetv1connect.ServerServiceClient
	Sites         sitev1connect.SiteServiceClient
	Tasks         taskv1connect.TaskServiceClient
}

// New makes a client of the control plane at a URL, for example https://chom.example.com. The token is an API token; without one
// only the calls that anybody may make succeed.
//
// Redirects are not followed: a token goes to nobody else. Use a context with a deadline for each call.
func New(url, token string, options ...connect.ClientOption) *Client {
	return NewWith(&http.Client{CheckRedirect: stay}, url, token, options...)
}

// NewWith is New with an HTTP client of the caller's: for a certificate authority of their own, or a proxy.
func NewWith(http connect.HTTPClient, url, token string, options ...connect.ClientOption) *Client {
	url = strings.TrimSuffix(url, "/")
	options = append(options, connect.WithInterceptors(bearer(token)))
	return &Client{
		Accounts:      accountv1connect.NewAccountServiceClient(http, url, options...),
		Sessions:      accountv1connect.NewSessionServiceClient(http, url, options...),
		SecondFactors: accountv1connect.NewSecondFactorServiceClient(http, url, options...),
		DeviceLogins:  accountv1connect.NewDeviceLoginServiceClient(http, url, options...),
		Organizations: organizationv1connect.NewOrganizationServiceClient(http, url, options...),
		Tokens:        tokenv1connect.NewTokenServiceClient(http, url, options...),
		Audit:         auditv1connect.NewAuditServiceClient(http, url, options...),
		Webhooks:      webhookv1connect.NewWebhookServiceClient(http, url, options...),
		Claims:        domainv1connect.NewClaimServiceClient(http, url, options...),
		Backups:       backupv1connect.NewBackupServiceClient(http, url, options...),
		Policies:      backupv1connect.NewPolicyServiceClient(http, url, options...),
		Targets:       backupv1connect.NewTargetServiceClient(http, url, options...),
		Imports:       backupv1connect.NewImportServiceClient(http, url, options...),
		Certificates:  certificatev1connect.NewCertificateServiceClient(http, url, options...),
		DNSProviders:  domainv1connect.NewDnsProviderServiceClient(http, url, options...),
		Mails:         mailv1connect.NewMailServiceClient(http, url, options...),
		Metrics:       metricv1connect.NewMetricServiceClient(http, url, options...),
		Servers:       fleetv1connect.NewServerServiceClient(http, url, options...),
		Sites:         sitev1connect.NewSiteServiceClient(http, url, options...),
		Tasks:         taskv1connect.NewTaskServiceClient(http, url, options...),
	}
}

func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// bearer is a token that goes with each call.
type bearer string

func (b bearer) sign(header http.Header) {
	if b != "" {
		header.Set("Authorization", "Bearer "+string(b))
	}
}

// WrapUnary implements connect.Interceptor.
func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		b.sign(request.Header())
		return next(ctx, request)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		b.sign(conn.RequestHeader())
		return conn
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (b bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
