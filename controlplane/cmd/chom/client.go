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

	api "chom.dev/proto/client"
	"connectrpc.com/connect"
)

// callTimeout is longer than the longest call: a site login waits up to 15 s for its host.
const callTimeout = 30 * time.Second

// maxAnswer bounds what a control plane can make this process hold.
const maxAnswer = 16 << 20

// client is the control plane's API.
type client struct {
	*api.Client
	*caller
}

// caller is what all calls have in common.
type caller struct {
	base  string // the URL without a slash at its end
	token string
	http  *http.Client
	note  func(format string, args ...any) // tells the person that a call is made again
}

func newClient(t target, note func(format string, args ...any)) (*client, error) {
	base, err := url.Parse(t.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, usagef("the URL must be http(s)://HOST[:PORT]")
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: callTimeout,
		ForceAttemptHTTP2:     true,
	}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("read certificate authority: %w", err)
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, usagef("--ca: %s holds no certificate", t.CA)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	c := &caller{base: strings.TrimSuffix(t.URL, "/"), token: t.Token, note: note, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // a token goes to nobody else
	}}
	options := []connect.ClientOption{connect.WithReadMaxBytes(maxAnswer), connect.WithInterceptors(c)}
	return &client{api.NewWith(c.http, c.base, "", options...), c}, nil
}

const keyHeader = "Idempotency-Key"

// WrapUnary implements connect.Interceptor: it adds the token, a key by which a repeat is known, and a time limit for each try.
func (c *caller) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, request connect.AnyRequest) (answer connect.AnyResponse, err error) {
		c.sign(request.Header())
		if c.token != "" { // strangers' calls have no keys
			request.Header().Set(keyHeader, keyFor(request.Any()))
		}
		err = c.patiently(ctx, func() error {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			answer, err = next(ctx, request)
			return err
		})
		return answer, err
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (c *caller) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		c.sign(conn.RequestHeader())
		return conn
	}
}

// WrapStreamingHandler implements connect.Interceptor. It is for servers, which this is not.
func (c *caller) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func (c *caller) sign(header http.Header) {
	if c.token != "" {
		header.Set("Authorization", "Bearer "+c.token)
	}
	header.Set("User-Agent", "chom/"+version)
}
