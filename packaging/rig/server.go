package rig

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/lab"
)

// Join makes a server of the host's name and pastes its line on the host. It
// returns when the line has ended well, which is when the agent is connected.
func (r *Rig) Join(ctx context.Context, h *lab.Host, output io.Writer) (*fleetv1.Server, error) {
	res, err := r.Servers.CreateServer(ctx, &fleetv1.CreateServerRequest{Name: h.Name()})
	if err != nil {
		return nil, fmt.Errorf("create server: %w", err)
	}
	return res.GetServer(), r.Paste(ctx, h, res.GetJoinToken().GetInstallCommand(), output)
}

// Paste types a line into the host's root shell.
func (r *Rig) Paste(ctx context.Context, h *lab.Host, line string, output io.Writer) error {
	var out strings.Builder
	w := io.Writer(&out)
	if output != nil {
		w = io.MultiWriter(&out, output)
	}
	got, err := h.Run(ctx, lab.Command{Argv: []string{"/bin/bash", "-c", line}, Stdout: w, Stderr: w})
	if err != nil {
		return err
	}
	if got.Code != 0 {
		return fmt.Errorf("the pasted line ended with %d:\n%s", got.Code, out.String())
	}
	return nil
}

// Prepared waits until the server's stack is installed and answers.
func (r *Rig) Prepared(ctx context.Context, serverID string, onChange func(*taskv1.WatchTaskResponse)) (*fleetv1.Server, error) {
	for {
		res, err := r.Servers.GetServer(ctx, &fleetv1.GetServerRequest{ServerId: serverID})
		if err != nil {
			return nil, err
		}
		s := res.GetServer()
		if s.GetFacts().GetPrepared() && s.GetOnline() {
			return s, nil
		}
		if id := s.GetPrepareTaskId(); id != "" {
			t, err := r.Wait(ctx, &taskv1.Task{Id: id, OrganizationId: Platform}, onChange)
			if err != nil {
				return nil, err
			}
			if t.GetState() != taskv1.State_STATE_SUCCEEDED {
				return nil, fmt.Errorf("prepare server: %s: %s", t.GetState(), t.GetError())
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Platform is the organization of work on servers themselves.
const Platform = "00000000-0000-0000-0000-000000000000"

// Page is what a visitor gets.
type Page struct {
	Status int
	Title  string
	Body   string
	Header http.Header
}

var title = regexp.MustCompile(`(?is)<title>\s*(.*?)\s*</title>`)

// Visit asks a host for a page of a domain, as a visitor whose DNS already
// points there would. Redirects are not followed.
func Visit(ctx context.Context, h *lab.Host, domain, path string) (Page, error) {
	return visit(ctx, h, "http://"+domain+path, nil)
}

// VisitSecure is Visit by HTTPS, of a visitor who trusts these roots.
func VisitSecure(ctx context.Context, h *lab.Host, domain, path string, roots *x509.CertPool) (Page, error) {
	return visit(ctx, h, "https://"+domain+path, roots)
}

func visit(ctx context.Context, h *lab.Host, url string, roots *x509.CertPool) (Page, error) {
	c := &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			ForceAttemptHTTP2: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots},
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				_, port, err := net.SplitHostPort(address)
				if err != nil {
					return nil, err
				}
				var d net.Dialer
				return d.DialContext(ctx, network, net.JoinHostPort(h.Addr().String(), port))
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       20 * time.Second,
	}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return Page{}, err
	}
	res, err := c.Do(req)
	if err != nil {
		return Page{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err != nil {
		return Page{}, err
	}
	p := Page{Status: res.StatusCode, Body: string(body), Header: res.Header}
	if m := title.FindStringSubmatch(p.Body); m != nil {
		p.Title = m[1]
	}
	return p, nil
}

// WaitPage visits until the page answers with the status and a title that
// holds the text.
func WaitPage(ctx context.Context, h *lab.Host, domain string, status int, titled string) (Page, error) {
	for {
		p, err := Visit(ctx, h, domain, "/")
		if err == nil && p.Status == status && strings.Contains(p.Title, titled) {
			return p, nil
		}
		select {
		case <-ctx.Done():
			return p, fmt.Errorf("http://%s/ answers %d %q, not %d %q: %w", domain, p.Status, p.Title, status, titled, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
