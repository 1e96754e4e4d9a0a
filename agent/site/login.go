package site

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"chom.dev/agent/task"
	"chom.dev/plugins/host"
	"chom.dev/plugins/sdk"
	orderv1 "chom.dev/proto/gen/chom/order/v1"
)

// armLogin hands the hash of a login's token to the site. The token itself is
// with whoever asked for it, and never comes here before it is used.
func (c *converge) armLogin(o *orderv1.Order) task.Step {
	order := o.GetSiteLogin()
	// Both times are the control plane's: their difference is right on a host
	// whose clock is not.
	life := min(order.GetExpireTime().AsTime().Sub(o.GetIssueTime().AsTime()), sdk.MaxLoginLifetime)
	return task.Step{
		Name: "login",
		Do: func(ctx context.Context, _ *task.Log) error {
			if order.GetHandle() != c.handle.String() {
				return task.Permanent(errors.New("the order names another site"))
			}
			return c.withPlugin(ctx, func(p *host.Session) error {
				return p.ArmLogin(ctx, c.application(), sdk.Login{
					TokenSHA256: [sha256.Size]byte(order.GetTokenSha256()),
					Expires:     time.Now().Add(life - time.Second), // the site counts in whole seconds
				})
			})
		},
	}
}
