package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"google.golang.org/grpc"

	pluginv1 "chom.dev/proto/gen/chom/plugin/v1"
)

// Client is the agent's end of the wire. Its calls mean what SiteType's and
// LoginOffer's mean. Authors meet it only in tests; package host uses it.
//
// The process at the other end runs as a tenant's user and may be in that
// tenant's hands: every answer is bounded, cleaned and checked here.
type Client struct {
	rpc pluginv1.SiteTypeServiceClient
}

// NewClient speaks to a plugin over an open connection.
func NewClient(conn grpc.ClientConnInterface) *Client {
	return &Client{pluginv1.NewSiteTypeServiceClient(conn)}
}

// Describe asks the process for its description. Use it to compare with the
// shipped one, never instead of it.
func (c *Client) Describe(ctx context.Context) (Description, error) {
	response, err := c.rpc.Describe(ctx, &pluginv1.DescribeRequest{})
	if err != nil {
		return Description{}, fromStatus(err)
	}
	return descriptionFromWire(response.GetDescription())
}

// maxProgress is how many lines of progress one call may bring: ten a second
// for the longest installation that the agent waits for, then they are dropped.
const maxProgress = 3000

// Install calls progress on the caller's goroutine; it may be nil.
func (c *Client) Install(ctx context.Context, site Site, progress func(Progress)) (State, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream on every way out
	defer cancel()
	stream, err := c.rpc.Install(ctx, &pluginv1.InstallRequest{Site: siteToWire(site)})
	if err != nil {
		return State{}, fromStatus(err)
	}
	for seen := 0; ; {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return State{}, errors.New("the plugin ended the installation without a result")
		}
		if err != nil {
			return State{}, fromStatus(err)
		}
		switch event := response.GetEvent().(type) {
		case *pluginv1.InstallResponse_State:
			return stateFromWire(event.State), nil
		case *pluginv1.InstallResponse_Progress:
			if seen++; progress != nil && seen <= maxProgress {
				progress(progressFromWire(event.Progress))
			}
		}
	}
}

// Update brings the application to the site's domain and settings.
func (c *Client) Update(ctx context.Context, site Site) (State, error) {
	response, err := c.rpc.Update(ctx, &pluginv1.UpdateRequest{Site: siteToWire(site)})
	if err != nil {
		return State{}, fromStatus(err)
	}
	return stateFromWire(response.GetState()), nil
}

// Check measures the site.
func (c *Client) Check(ctx context.Context, site Site) (State, error) {
	response, err := c.rpc.Check(ctx, &pluginv1.CheckRequest{Site: siteToWire(site)})
	if err != nil {
		return State{}, fromStatus(err)
	}
	return stateFromWire(response.GetState()), nil
}

// loginPath keeps the answer on the site's own domain: one slash at the start,
// then only characters that need no escaping in a URL, a header or a page.
var loginPath = regexp.MustCompile(`^/([A-Za-z0-9._~-][A-Za-z0-9._~/-]*)?(\?[A-Za-z0-9._~=&-]+)?$`)

const maxLoginPath = 512

// Login makes a login address; one that leads elsewhere or lives too long is
// refused.
func (c *Client) Login(ctx context.Context, site Site) (Login, error) {
	response, err := c.rpc.Login(ctx, &pluginv1.LoginRequest{Site: siteToWire(site)})
	if err != nil {
		return Login{}, fromStatus(err)
	}
	login := Login{
		Path:     response.GetPath(),
		Lifetime: time.Duration(response.GetLifetimeSeconds()) * time.Second,
	}
	if len(login.Path) > maxLoginPath || !loginPath.MatchString(login.Path) {
		return Login{}, errors.New("the plugin answered with a login path that is not a plain path of the site")
	}
	if login.Lifetime <= 0 || login.Lifetime > MaxLoginLifetime {
		return Login{}, fmt.Errorf("the plugin answered with a login lifetime of %v, the limit is %v", login.Lifetime, MaxLoginLifetime)
	}
	return login, nil
}
