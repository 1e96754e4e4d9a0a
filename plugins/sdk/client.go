package sdk

import (
	"context"
	"errors"
	"io"

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

// ArmLogin means what LoginOffer says.
func (c *Client) ArmLogin(ctx context.Context, site Site, login Login) error {
	_, err := c.rpc.ArmLogin(ctx, &pluginv1.ArmLoginRequest{
		Site:           siteToWire(site),
		TokenSha256:    login.TokenSHA256[:],
		ExpireTimeUnix: login.Expires.Unix(),
	})
	if err != nil {
		return fromStatus(err)
	}
	return nil
}
