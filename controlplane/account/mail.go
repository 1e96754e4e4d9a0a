package account

import (
	"context"
	"fmt"
	"time"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/notify"
	"chom.dev/proto/contract"
)

// Mailer sends what it is given once the transaction has committed. It is notify.Mails.
type Mailer interface {
	Enqueue(ctx context.Context, tx *db.Tx, mail notify.Mail) error
}

// Templates of mails to people about their own accounts, and their values.
const (
	mailVerify        = "verify_email"          // link
	mailSignUpExists  = "sign_up_exists"        // link: where to sign in
	mailReset         = "reset_password"        // link
	mailPassword      = "password_changed"      // time, address, link: where to ask for a reset
	mailConfirmChange = "confirm_email_change"  // link
	mailChanged       = "email_changed"         // time, address, email: the new one
	mailFactors       = "second_factor_changed" // time, address, change: what was done, link: where the factors are listed
	mailDevice        = "new_device"            // time, address, device, link: where the sessions are listed
)

// Pages of the dashboard that links lead to. A secret stands behind the #, which browsers send to nobody: it is in no
// access log and in no Referer.
const (
	pageVerify   = "/verify-email"
	pageReset    = "/reset-password"
	pageChange   = "/confirm-email"
	pageLogin    = "/login"
	pageSessions = "/account/sessions"
	pageFactors  = "/account/second-factors"
	pageDevice   = "/device"
)

func (a *Accounts) link(page, secret string) string {
	if secret == "" {
		return a.url + page
	}
	return a.url + page + "#" + secret
}

// tell sends somebody a mail about what was done to their account, when and from where.
func (a *Accounts) tell(ctx context.Context, tx *db.Tx, to, template string, from Client, values map[string]string) error {
	values["time"] = time.Now().UTC().Format(time.RFC3339)
	values["address"] = oneLine(from.Address)
	return a.write(ctx, tx, to, template, values)
}

// write sends somebody a mail. The address is one that was parsed before it was stored.
func (a *Accounts) write(ctx context.Context, tx *db.Tx, to, template string, values map[string]string) error {
	email, err := contract.ParseEmail(to)
	if err != nil {
		return fmt.Errorf("write mail %s: %w", template, err)
	}
	return a.mails.Enqueue(ctx, tx, notify.Mail{To: email, Template: template, Values: values})
}
