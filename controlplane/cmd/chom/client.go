package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"chom.dev/proto/gen/chom/account/v1/accountv1connect"
	"chom.dev/proto/gen/chom/audit/v1/auditv1connect"
	"chom.dev/proto/gen/chom/fleet/v1/fleetv1connect"
	"chom.dev/proto/gen/chom/mail/v1/mailv1connect"
	"chom.dev/proto/gen/chom/organization/v1/organizationv1connect"
	"chom.dev/proto/gen/chom/site/v1/sitev1connect"
	"chom.dev/proto/gen/chom/task/v1/taskv1connect"
	"chom.dev/proto/gen/chom/token/v1/tokenv1connect"
	"chom.dev/proto/gen/chom/webhook/v1/webhookv1connect"
	"connectrpc.com/connect"
)

// callTimeout is longer than the longest call: a site login waits up to 15 s for its host.
const callTimeout = 30 * time.Second

// maxAnswer bounds what a control plane can make this process hold.
const maxAnswer = 16 << 20

// client is the control plane's API.
type client struct {
	accounts      accountv1connect.AccountServiceClient
	sessions      accountv1connect.SessionServiceClient
	factors       accountv1connect.SecondFactorServiceClient
	tokens        tokenv1connect.TokenServiceClient
	organizations organizationv1connect.OrganizationServiceClient
	servers       fleetv1connect.ServerServiceClient
	sites         sitev1connect.SiteServiceClient
	tasks         taskv1connect.TaskServiceClient
	webhooks      webhookv1connect.WebhookServiceClient
	audit         auditv1connect.AuditServiceClient
	mails         mailv1connect.MailServiceClient
}

func newClient(c config) (*client, error) {
	base, err := url.Parse(c.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, usagef("the URL must be http(s)://HOST[:PORT]")
	}
	transport := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: callTimeout,
		ForceAttemptHTTP2:     true,
	}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("read certificate authority: %w", err)
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, usagef("%s holds no certificate", c.CA)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	hc := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a token goes to nobody else
	}
	options := []connect.ClientOption{
		connect.WithReadMaxBytes(maxAnswer),
		connect.WithInterceptors(credentials{token: c.Token}),
	}
	to := strings.TrimSuffix(c.URL, "/")
	return &client{
		accounts:      accountv1connect.NewAccountServiceClient(hc, to, options...),
		sessions:      accountv1connect.NewSessionServiceClient(hc, to, options...),
		factors:       accountv1connect.NewSecondFactorServiceClient(hc, to, options...),
		tokens:        tokenv1connect.NewTokenServiceClient(hc, to, options...),
		organizations: organizationv1connect.NewOrganizationServiceClient(hc, to, options...),
		servers:       fleetv1connect.NewServerServiceClient(hc, to, options...),
		sites:         sitev1connect.NewSiteServiceClient(hc, to, options...),
		tasks:         taskv1connect.NewTaskServiceClient(hc, to, options...),
		webhooks:      webhookv1connect.NewWebhookServiceClient(hc, to, options...),
		audit:         auditv1connect.NewAuditServiceClient(hc, to, options...),
		mails:         mailv1connect.NewMailServiceClient(hc, to, options...),
	}, nil
}

// credentials adds the token to each call and a time limit to the unary ones.
type credentials struct{ token string }

func (c credentials) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		c.sign(request.Header())
		return next(ctx, request)
	}
}

func (c credentials) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		c.sign(conn.RequestHeader())
		return conn
	}
}

func (c credentials) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func (c credentials) sign(header http.Header) {
	if c.token != "" {
		header.Set("Authorization", "Bearer "+c.token)
	}
	header.Set("User-Agent", "chom/"+version)
}
